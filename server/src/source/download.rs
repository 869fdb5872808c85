//! Large objects: in parts, several at a time, each part going on where it broke off, whole parts kept on disk over restarts.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Serialize;

use super::cache::Cache;
use super::s3::{Client, Fault, Kind};

/// Bytes of a part.
pub(super) const PART: usize = 8 << 20;
/// Parts at a time.
const PARALLEL: usize = 4;
/// How often a part that brings nothing is asked for before the download ends for now.
const TRIES: u32 = 4;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// A download in progress.
#[derive(Clone, Debug, Serialize)]
pub struct Download {
    /// The model's name.
    pub model: String,
    /// The version.
    pub version: String,
    /// Bytes that are here.
    pub bytes: u64,
    /// Bytes that the version's files have together; 0 until the manifest is read.
    pub of: u64,
}

/// How far a download is.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) bytes: AtomicU64,
    pub(super) of: AtomicU64,
}

/// An object to download.
pub(super) struct Target<'a> {
    pub(super) key: &'a str,
    /// Under which name parts are kept: another content, another name.
    pub(super) name: &'a str,
    pub(super) bytes: u64,
    /// The tag that the object must have; without one, all parts must have that of the first.
    pub(super) tag: Option<&'a str>,
}

/// Downloads an object; gives its tag too, if any of it came from the server.
pub(super) async fn download(
    client: &Client,
    cache: &Cache,
    wanted: &Target<'_>,
    progress: &Progress,
) -> Result<(Bytes, Option<String>), Fault> {
    let size = usize::try_from(wanted.bytes).unwrap_or(usize::MAX);
    let mut rest = BytesMut::with_capacity(size);
    let mut parts = vec![];
    for offset in (0..size).step_by(PART) {
        let after = rest.split_off(PART.min(size - offset));
        parts.push((offset as u64, std::mem::replace(&mut rest, after)));
    }
    let mut parts = parts.into_iter();
    let Some((offset, first)) = parts.next() else { return Ok((Bytes::new(), None)) };
    let part = Part { client, cache, wanted, progress, several: size > PART };
    // The first part tells the tag that the others must have.
    let (mut whole, tag) = part.get(offset, first, wanted.tag.map(Into::into)).await?;
    let others = stream::iter(parts.map(|(offset, buffer)| part.get(offset, buffer, tag.clone())));
    let others: Vec<_> = others.buffered(PARALLEL).try_collect().await?;
    for (bytes, _) in others {
        // They are neighbours in one allocation: nothing is copied.
        whole.unsplit(bytes);
    }
    Ok((whole.freeze(), tag))
}

struct Part<'a> {
    client: &'a Client,
    cache: &'a Cache,
    wanted: &'a Target<'a>,
    progress: &'a Progress,
    several: bool,
}

impl Part<'_> {
    /// Fills a part's buffer and gives it with the object's tag; `None` when the part was on disk.
    async fn get(
        &self,
        offset: u64,
        mut buffer: BytesMut,
        mut tag: Option<String>,
    ) -> Result<(BytesMut, Option<String>), Fault> {
        let Target { key, name, bytes, .. } = *self.wanted;
        let length = (bytes - offset).min(PART as u64);
        if self.several
            && let Some(kept) = tokio::task::block_in_place(|| self.cache.part(name, offset, length))
        {
            self.progress.bytes.fetch_add(length, Ordering::Relaxed);
            buffer.extend_from_slice(&kept);
            return Ok((buffer, tag));
        }
        let came = |bytes: u64| {
            self.progress.bytes.fetch_add(bytes, Ordering::Relaxed);
        };
        let mut fruitless = 0;
        while (buffer.len() as u64) < length {
            let before = buffer.len();
            let range = offset + before as u64..offset + length;
            let result = self.client.get_range(key, range, tag.as_deref(), &mut buffer, &came).await;
            let fault = match result {
                Ok((_, Some(whole))) if whole != bytes => {
                    let message = format!("{}: it has {whole} bytes instead of {bytes}", self.client.url(key));
                    return Err(Fault { kind: Kind::Changed, message });
                }
                Ok((has, _)) => {
                    tag = Some(has);
                    let message = format!("{}: the answer is shorter than it should be", self.client.url(key));
                    Fault { kind: Kind::Other, message }
                }
                Err(fault) if fault.kind != Kind::Other => return Err(fault),
                Err(fault) => fault,
            };
            if buffer.len() as u64 == length {
                break;
            }
            fruitless = if buffer.len() > before { 1 } else { fruitless + 1 };
            if fruitless >= TRIES {
                return Err(fault);
            }
            tracing::debug!(fault = fault.message, offset, "a part of a download is asked for again");
            tokio::time::sleep(FIRST_PAUSE * (1 << fruitless)).await;
        }
        if self.several {
            tokio::task::block_in_place(|| self.cache.put_part(name, offset, &buffer));
        }
        Ok((buffer, tag))
    }
}
