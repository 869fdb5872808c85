"""Takes TLS connections on a free port, which it prints, and relays them to another port of this machine.

    python tls_relay.py PORT FOLDER

The certificate is for localhost, made by an authority whose certificate is written to FOLDER/ca.pem. It ends when its
standard input does.
"""

import datetime as dt
import socket
import ssl
import sys
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PEM = serialization.Encoding.PEM


def certificate(subject: str, key, issuer: str, issuer_key, *, authority: bool) -> x509.Certificate:
    """A certificate for `subject`, valid for a day around now."""

    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now, day = dt.datetime.now(dt.UTC), dt.timedelta(days=1)
    builder = x509.CertificateBuilder(name(issuer), name(subject), key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - day).not_valid_after(now + day)
    builder = builder.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
    return builder.sign(issuer_key, hashes.SHA256())


def context(folder: Path) -> ssl.SSLContext:
    """What a server needs, with the authority's certificate in `folder`."""
    ca_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    ca = certificate("authority of a test", ca_key, "authority of a test", ca_key, authority=True)
    own = certificate("localhost", key, "authority of a test", ca_key, authority=False)
    (folder / "ca.pem").write_bytes(ca.public_bytes(PEM))
    secret = key.private_bytes(PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "own.pem").write_bytes(own.public_bytes(PEM) + secret)
    result = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    result.load_cert_chain(folder / "own.pem")
    return result


def pump(source: socket.socket, sink: socket.socket) -> None:
    """Copies until one side ends, then ends the other."""
    try:
        while data := source.recv(1 << 16):
            sink.sendall(data)
    except OSError:
        pass  # A client that does not trust the certificate leaves like this.
    for side in (source, sink):
        side.close()


def serve(client: socket.socket, tls: ssl.SSLContext, port: int) -> None:
    """One connection, in both directions."""
    try:
        client = tls.wrap_socket(client, server_side=True)
        upstream = socket.create_connection(("127.0.0.1", port))
    except OSError:
        client.close()
        return
    threading.Thread(target=pump, args=(upstream, client), daemon=True).start()
    pump(client, upstream)


def main() -> None:
    """Listens, and tells where."""
    port, tls = int(sys.argv[1]), context(Path(sys.argv[2]))
    listener = socket.create_server(("127.0.0.1", 0))
    print(listener.getsockname()[1], flush=True)  # noqa: T201

    def accept() -> None:
        while True:
            client, _ = listener.accept()
            threading.Thread(target=serve, args=(client, tls, port), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    sys.stdin.read()


if __name__ == "__main__":
    main()
