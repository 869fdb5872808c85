"""An S3 server on a port of this machine, a free one if none is given. It prints which, and ends as its input does."""

import sys
import threading

from moto.moto_server import threaded_moto_server


class App(threaded_moto_server.DomainDispatcherApplication):
    """moto looks at If-Match and then writes, in two steps: here, as in S3, nothing comes between them."""

    writing = threading.Lock()

    def __call__(self, environ, start_response):
        if environ["REQUEST_METHOD"] == "GET":
            return super().__call__(environ, start_response)
        with self.writing:
            return super().__call__(environ, start_response)


def main() -> None:
    threaded_moto_server.DomainDispatcherApplication = App
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 0
    server = threaded_moto_server.ThreadedMotoServer("127.0.0.1", port=port, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    main()
