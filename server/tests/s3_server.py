"""An S3 server on a free port of this machine, which it prints. It ends when its standard input does."""

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
    server = threaded_moto_server.ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    print(server.get_host_and_port()[1], flush=True)  # noqa: T201
    sys.stdin.read()


if __name__ == "__main__":
    main()
