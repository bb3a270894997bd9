"""Files of data sets."""

import struct


def short_bytes(text):
    """Python 2's `str` in protocol 2: SHORT_BINSTRING or BINSTRING."""
    return b"U" + bytes([len(text)]) + text if len(text) < 256 else b"T" + struct.pack("<i", len(text)) + text


def python2_pickle(pixels, key, labels):
    """The dictionary as Python 2 with NumPy 1 wrote it: byte strings, an array rebuilt by numpy.core.multiarray."""
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        + short_bytes(b"b")
        + b"\x87R(K\x01"
        + b"".join(b"M" + struct.pack("<H", n) for n in pixels.shape)
        + b"\x86cnumpy\ndtype\n"
        + short_bytes(b"u1")
        + b"K\x00K\x01\x87R(K\x03"
        + short_bytes(b"|")
        + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb\x89"
        + short_bytes(pixels.tobytes())
        + b"tb"
    )
    items = b"](" + b"".join(b"K" + bytes([int(x)]) for x in labels) + b"e"
    return b"\x80\x02}(" + short_bytes(b"data") + array + short_bytes(key) + items + b"u."


def header(*values):
    return struct.pack(f">{len(values)}I", *values)
