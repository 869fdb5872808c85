//! Where requests may come from: a browser sends what any page says, to whatever its user can reach.

mod common;

use common::Server;
use common::http::{Client, Reply, request};
use common::repo::{Repo, row};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::io::Write;
use std::net::SocketAddr;

const JSON: &str = "content-type: application/json\r\n";
const TEXT: &str = "content-type: text/plain\r\n";

/// A request with this host and these headers.
fn asked(address: SocketAddr, head: &str, host: &str, headers: &str) -> Reply {
    let mut socket = common::http::socket(address).expect("connected");
    let body = row(1).to_string();
    let length = body.len();
    let head = format!("{head} HTTP/1.1\r\nhost: {host}\r\n{headers}content-length: {length}\r\n\r\n");
    socket.write_all((head + &body).as_bytes()).expect("sent");
    Client::over(socket).receive().expect("answered")
}

#[test]
fn the_operations_port_has_no_name_of_others() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--allowed-hosts", "ops.example.com, other.example.com"]);
    let port = server.ops.port();
    let known = [
        "127.0.0.1",
        "[::1]",
        "localhost",
        "anomaly-api",
        "anomaly-api.ml.svc",
        "a.ml.svc.cluster.local.",
        "Ops.Example.com",
    ];
    for name in known {
        for host in [name.to_owned(), format!("{name}:{port}")] {
            for path in ["GET /status", "GET /livez", "GET /metrics", "GET /"] {
                let reply = asked(server.ops, path, &host, TEXT);
                assert_eq!(reply.status, 200, "{path} {host}: {}", reply.text());
            }
        }
    }
    for name in ["evil.example.com", "127.0.0.1.evil.example", "localhost.evil.example:8082"] {
        for path in
            ["GET /status", "GET /", "POST /models/anomaly/labels", "POST /models/anomaly/promote", "GET /nowhere"]
        {
            let reply = asked(server.ops, path, name, TEXT);
            assert_eq!(reply.status, 421, "{path} {name}: {}", reply.text());
            assert!(reply.text().contains("--allowed-hosts"), "{}", reply.text());
        }
        // Predictions have whatever name their users give them.
        assert_eq!(asked(server.http, "POST /predict", name, TEXT).status, 415, "text is no dialect");
        assert_eq!(asked(server.http, "GET /livez", name, TEXT).status, 200);
    }
}

#[tokio::test]
async fn the_name_of_http2_is_looked_at_as_well() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let socket = tokio::net::TcpStream::connect(server.ops).await.expect("connected");
    let (mut client, connection) =
        http2::handshake::<_, _, String>(TokioExecutor::new(), TokioIo::new(socket)).await.expect("HTTP/2");
    tokio::spawn(connection);
    for (name, status) in [("127.0.0.1:8082", 200), ("localhost", 200), ("evil.example.com", 421)] {
        let asked = hyper::Request::get(format!("http://{name}/status")).body(String::new()).expect("a request");
        assert_eq!(client.send_request(asked).await.expect("answered").status(), status, "{name}");
    }
}

#[test]
fn pages_of_other_sites_change_nothing() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &["--allowed-hosts", "friend.example.com"]);
    let (http, ops) = (server.http, server.ops);
    let predict = |headers: &str| asked(http, "POST /predict", "localhost", &format!("{headers}{JSON}"));
    for headers in [
        "",
        "sec-fetch-site: same-origin\r\norigin: http://localhost\r\n",
        "sec-fetch-site: none\r\n",
        // A browser of before, or one that does not trust the connection.
        "origin: http://localhost\r\n",
        "sec-fetch-site: cross-site\r\norigin: https://friend.example.com\r\n",
        "origin: https://friend.example.com:8443\r\n",
    ] {
        assert_eq!(predict(headers).status, 200, "{headers}");
    }
    for headers in [
        "sec-fetch-site: cross-site\r\n",
        "sec-fetch-site: same-site\r\norigin: http://localhost\r\n",
        "sec-fetch-site: \r\n",
        "origin: https://evil.example.com\r\n",
        "origin: null\r\n",
        "origin: http://localhost.evil.example\r\n",
        "origin: http://localhost:81\r\n",
    ] {
        let reply = predict(headers);
        assert_eq!(reply.status, 403, "{headers}: {}", reply.text());
        assert!(reply.text().contains("--allowed-hosts"), "{}", reply.text());
        for path in [
            "POST /feedback",
            "POST /v2/models/anomaly/infer",
            "POST /v2/repository/models/anomaly/unload",
            "PUT /nowhere",
        ] {
            assert_eq!(asked(http, path, "localhost", &format!("{headers}{TEXT}")).status, 403, "{path} {headers}");
        }
        for path in ["POST /models/anomaly/labels", "POST /models/anomaly/promote"] {
            assert_eq!(asked(ops, path, "localhost", &format!("{headers}{TEXT}")).status, 403, "{path} {headers}");
        }
    }
    // What is only read is for the browser to keep from such a page: no answer lets it.
    let page = [("origin", "https://evil.example.com"), ("sec-fetch-site", "cross-site")];
    for (address, path) in [(http, "/v2/models/anomaly"), (http, "/openapi.json"), (ops, "/status"), (ops, "/metrics")]
    {
        let reply = request(address, "GET", path, &page, b"");
        assert_eq!((reply.status, reply.header("access-control-allow-origin")), (200, ""), "{path}");
    }
    server.predict(&row(1));
}
