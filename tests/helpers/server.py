"""A server of files on this machine."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Server:
    """Serves what `pages` says: path → (content, how). Remembers what was asked: (path, Range or None)."""

    def __init__(self):
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                outer.answer(self)

            def log_message(self, *_):
                pass

        self.pages, self.asked = {}, []
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.base = f"http://127.0.0.1:{self.http.server_address[1]}"
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()

    def close(self):
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()

    def serve(self, path, content, *how):
        """`how`: html (the type it says), html-as-file, no-range, wrong-range, breaks (always after 80,000 bytes)."""
        self.pages[path] = content, how
        return f"{self.base}{path}"

    def answer(self, request):
        wanted = request.headers.get("Range")
        self.asked.append((request.path, wanted))
        if request.path not in self.pages:
            request.send_error(404)
            return
        content, how = self.pages[request.path]
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and "no-range" not in how else 0
        if start >= len(content):
            request.send_response(416)
            request.send_header("Content-Range", f"bytes */{len(content)}")
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        if wanted and "wrong-range" in how:
            start = 1
        body = content[start:]
        request.send_response(206 if start else 200)
        if start:
            request.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        request.send_header("Content-Type", "text/html; charset=utf-8" if "html" in how else "application/gzip")
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body[:80_000] if "breaks" in how else body)
