//! Bodies between their compressed form and what they hold: `gzip`, `deflate` (which is zlib's format) and `zstd`.
//!
//! Both ways go piece by piece, so that neither keeps a thread from its other connections.

use async_compression::Level;
use async_compression::tokio::bufread::{GzipDecoder, GzipEncoder, ZlibDecoder, ZlibEncoder, ZstdDecoder, ZstdEncoder};
use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use futures_util::{StreamExt, TryStreamExt};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::io::AsyncRead;
use tokio_util::io::{ReaderStream, StreamReader};

use super::BODY_UNIT;
use super::error::Problem;
use super::head::find;
use crate::text::shown;

/// An answer of ten packets arrives in one flight: smaller, it would arrive no sooner.
const WORTH_IT: u64 = 14 << 10;

/// A compression, in the order in which they are preferred.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Encoding {
    Zstd,
    Gzip,
    Deflate,
}

impl Encoding {
    const ALL: [Self; 3] = [Self::Zstd, Self::Gzip, Self::Deflate];

    const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
            Self::Deflate => "deflate",
        }
    }

    fn named(name: &str) -> Option<Self> {
        let name = if name.eq_ignore_ascii_case("x-gzip") { "gzip" } else { name };
        Self::ALL.into_iter().find(|encoding| encoding.name().eq_ignore_ascii_case(name))
    }
}

/// The body as a stream of what it holds, by the request's `Content-Encoding`.
///
/// # Errors
/// When it is compressed in another way.
pub(super) fn decompressed<B>(headers: &HeaderMap, body: B) -> Result<Body, Problem>
where
    B: hyper::body::Body<Data = Bytes, Error: Into<axum::BoxError>> + Send + 'static,
{
    let given = headers.get(header::CONTENT_ENCODING).map_or("identity", |v| v.to_str().unwrap_or("?")).trim();
    if given.is_empty() || given.eq_ignore_ascii_case("identity") {
        return Ok(Body::new(body));
    }
    let encoding = Encoding::named(given).ok_or_else(|| {
        let shown = shown(given);
        let detail = format!("Content-Encoding {shown:?} is not taken: send gzip, deflate, zstd or none");
        Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, detail)
    })?;
    let compressed = reader(Body::new(body));
    Ok(match encoding {
        Encoding::Gzip => {
            let mut decoder = GzipDecoder::new(compressed);
            // As `cat a.gz b.gz` makes it.
            decoder.multiple_members(true);
            pieces(decoder)
        }
        Encoding::Deflate => pieces(ZlibDecoder::new(compressed)),
        Encoding::Zstd => pieces(ZstdDecoder::new(compressed)),
    })
}

/// What a gzip in memory holds, as a stream.
pub(super) fn gunzip(compressed: Bytes) -> Body {
    pieces(GzipDecoder::new(std::io::Cursor::new(compressed)))
}

/// What a client takes, which may be told in several lines.
pub(super) fn accepted(headers: &HeaderMap) -> Option<HeaderValue> {
    find(headers, "accept-encoding")?;
    let mut lines = headers.get_all(header::ACCEPT_ENCODING).iter();
    let first = lines.next()?.clone();
    let Some(second) = lines.next() else { return Some(first) };
    let all: Vec<&[u8]> = [&first, second].into_iter().chain(lines).map(HeaderValue::as_bytes).collect();
    HeaderValue::from_bytes(&all.join(&b","[..])).ok()
}

/// The answer, compressed if it is large and the request's `Accept-Encoding` allows it.
pub(super) fn answer(accepted: Option<&HeaderValue>, response: Response) -> Response {
    let mut size = response.body().size_hint().exact();
    if size == Some(0) {
        // The answer to HEAD has lost its body, and must have the other's headers.
        let told = find(response.headers(), "content-length").and_then(|value| value.to_str().ok()?.parse().ok());
        size = told.or(size);
    }
    let small = size.is_some_and(|size| size < WORTH_IT);
    if small || response.headers().contains_key(header::CONTENT_ENCODING) {
        return response;
    }
    let mut response = response;
    // A cache must not give it to a client that accepts something else.
    response.headers_mut().append(header::VARY, HeaderValue::from_static("accept-encoding"));
    let Some(encoding) = accepted.and_then(|value| preferred(value.to_str().ok()?)) else { return response };
    let (mut head, body) = response.into_parts();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(encoding.name()));
    let body = reader(body);
    // The fastest levels: numbers as text shrink by little more with the slow ones.
    let body = match encoding {
        Encoding::Zstd => pieces(ZstdEncoder::with_quality(body, Level::Fastest)),
        Encoding::Gzip => pieces(GzipEncoder::with_quality(body, Level::Fastest)),
        Encoding::Deflate => pieces(ZlibEncoder::with_quality(body, Level::Fastest)),
    };
    Response::from_parts(head, body)
}

/// The encoding that a client likes most, of those that we have; `None` when it rather has none.
fn preferred(accepted: &str) -> Option<Encoding> {
    let choices = accepted.split(',').filter_map(|choice| {
        let mut parts = choice.split(';');
        let name = parts.next()?.trim();
        let weight = parts.find_map(|part| {
            let (name, weight) = part.split_once('=')?;
            name.trim().eq_ignore_ascii_case("q").then(|| weight.trim().parse::<f32>().unwrap_or(0.0))
        });
        Some((name, weight.unwrap_or(1.0)))
    });
    let weight = |name: &str| choices.clone().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, weight)| weight);
    let none = weight("identity").unwrap_or(0.0);
    let mut best = None;
    for encoding in Encoding::ALL {
        // Whoever takes anything is surest to understand the oldest.
        let wildcard = || weight("*").filter(|_| encoding == Encoding::Gzip);
        let liked = weight(encoding.name()).or_else(wildcard).unwrap_or(0.0);
        if liked > best.map_or(0.0, |(_, most)| most) {
            best = Some((encoding, liked));
        }
    }
    best.filter(|(_, liked)| *liked >= none).map(|(encoding, _)| encoding)
}

fn reader(body: Body) -> impl tokio::io::AsyncBufRead + Send {
    StreamReader::new(TryStreamExt::map_err(BodyExt::into_data_stream(body), std::io::Error::other))
}

fn pieces(reader: impl AsyncRead + Send + 'static) -> Body {
    Body::from_stream(ReaderStream::with_capacity(reader, BODY_UNIT).then(|piece| async {
        tokio::task::yield_now().await;
        piece
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_may_say_it_in_several_lines() {
        let mut headers = HeaderMap::new();
        assert_eq!(accepted(&headers), None);
        for (line, all) in [("br", "br"), ("gzip", "br,gzip"), ("zstd;q=0", "br,gzip,zstd;q=0")] {
            headers.append(header::ACCEPT_ENCODING, HeaderValue::from_static(line));
            assert_eq!(accepted(&headers).expect("lines"), all);
        }
    }

    #[test]
    fn the_client_chooses_and_we_break_ties() {
        for (accepted, chosen) in [
            ("", None),
            ("identity", None),
            ("br", None),
            ("gzip, deflate", Some(Encoding::Gzip)),
            ("gzip, deflate, br, zstd", Some(Encoding::Zstd)),
            ("deflate;q=1.0, gzip;q=0.5", Some(Encoding::Deflate)),
            ("gzip;q=0", None),
            ("identity;q=1, gzip;q=0.5", None),
            ("GZIP", Some(Encoding::Gzip)),
            ("gzip;Q=0", None),
            ("gzip;q=much, deflate ; q = 0.5", Some(Encoding::Deflate)),
            ("*", Some(Encoding::Gzip)),
            ("*;q=0.5, gzip;q=0", None),
        ] {
            assert_eq!(preferred(accepted), chosen, "{accepted:?}");
        }
    }
}
