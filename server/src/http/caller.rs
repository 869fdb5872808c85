//! Where a request may come from: a browser sends what any page says, to whatever its user can reach.

use axum::http::{Method, Request, StatusCode, Version};

use super::error::Problem;

/// Ends of names that nobody outside of a cluster or a cloud's network can make lead here.
const INSIDE: [&str; 4] = [".localhost", ".svc", ".cluster.local", ".internal"];

/// Hosts that are named by whoever runs the server.
#[derive(Clone, Debug, Default)]
pub(super) struct Hosts(Vec<String>);

/// Of a request's head, what tells where it comes from.
#[derive(Default)]
struct Told<'a> {
    hosts: usize,
    host: Option<&'a str>,
    origin: Option<&'a str>,
    /// What a browser says of its page: `same-origin`, `same-site`, `cross-site`, or `none` where its user typed the address.
    site: Option<&'a str>,
}

impl Hosts {
    pub(super) fn of(names: &[String]) -> Self {
        Self(names.iter().map(|name| name.to_ascii_lowercase()).collect())
    }

    fn names(&self, host: &str) -> bool {
        self.0.iter().any(|name| name.eq_ignore_ascii_case(host))
    }

    /// Why a request of any listener is not answered: a head with no host or two is read in two ways by two programs; and a page of
    /// another site may not make its reader's browser change anything. What is only read, a page of another site does not get.
    pub(super) fn refuse<B>(&self, request: &Request<B>) -> Option<Problem> {
        let told = Told::of(request);
        if request.version() == Version::HTTP_11 && told.hosts != 1 {
            let detail = format!("a request of HTTP/1.1 has one Host header, this one has {}", told.hosts);
            return Some(Problem::new(StatusCode::BAD_REQUEST, detail));
        }
        if matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS) {
            return None;
        }
        let origin = told.origin.map(|origin| origin.split_once("://").map_or(origin, |(_, host)| host));
        let is_ours = match told.site {
            Some("same-origin" | "none") => true,
            Some(_) => false,
            None => origin.is_none_or(|origin| told.host.is_some_and(|host| host.eq_ignore_ascii_case(origin))),
        };
        if is_ours || origin.is_some_and(|origin| self.names(without_port(origin))) {
            return None;
        }
        let origin = told.origin.unwrap_or("another site");
        let detail = format!(
            "a page of {origin} made this request in somebody's browser; --allowed-hosts names the hosts whose pages may"
        );
        Some(Problem::new(StatusCode::FORBIDDEN, detail))
    }

    /// The same for the operations port, which is also read by browsers: it has no name but those of the network that it is in. A page
    /// whose own name leads here, by whoever owns that name, would be of the same site.
    pub(super) fn refuse_operations<B>(&self, request: &Request<B>) -> Option<Problem> {
        if let Some(host) = Told::of(request).host.map(without_port)
            && !is_inside(host)
            && !self.names(host)
        {
            let detail = format!(
                "this port is asked by an address, by localhost or by a name of the cluster, and not as {host}; --allowed-hosts {host} \
                 lets it be asked so"
            );
            return Some(Problem::new(StatusCode::MISDIRECTED_REQUEST, detail));
        }
        self.refuse(request)
    }
}

impl<'a> Told<'a> {
    fn of<B>(request: &'a Request<B>) -> Self {
        let mut told = Self::default();
        for (name, value) in request.headers() {
            let value = value.to_str().ok();
            match name.as_str() {
                "host" => (told.hosts, told.host) = (told.hosts + 1, value),
                "origin" => told.origin = value.or(Some("an unreadable origin")),
                "sec-fetch-site" => told.site = value.or(Some("")),
                _ => {}
            }
        }
        // In HTTP/2 it is a part of the address.
        told.host = request.uri().authority().map(|authority| authority.as_str()).or(told.host);
        told
    }
}

fn without_port(host: &str) -> &str {
    match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    }
}

/// Whether a host is an address, or a name that no page's owner can have.
fn is_inside(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    host.parse::<std::net::IpAddr>().is_ok() || !name.contains('.') || INSIDE.iter().any(|end| name.ends_with(end))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_the_network_are_told_from_others() {
        for host in
            ["127.0.0.1:8082", "[::1]:8082", "localhost:1", "onnxd", "a.b.svc:80", "x.svc.cluster.local.", "LOCALHOST"]
        {
            assert!(is_inside(without_port(host)), "{host}");
        }
        for host in ["example.com", "127.0.0.1.example.com:8082", "svc.example.com", "a.local", "1.2.3.4.5"] {
            assert!(!is_inside(without_port(host)), "{host}");
        }
    }
}
