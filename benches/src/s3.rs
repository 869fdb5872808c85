//! Everything that a repository in S3 needs, on this machine: a server, two replicas, and what one may do with them.

use std::{path::Path, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::Value;
use tempfile::TempDir;
use time::OffsetDateTime;
use tokio::signal::unix::{SignalKind, signal};

use crate::{
    bucket::{self, BUCKET, MODEL, POINTER, S3, is_free},
    progress,
    promotion::state,
    server::Server,
};

/// How often replicas look; short, for someone who waits.
const POLL: &str = "2s";
/// How often the replicas are asked what they serve.
const WATCH: Duration = Duration::from_millis(200);

/// Runs an S3 server and two replicas that serve from it, until Ctrl-C.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    setup: bucket::Setup,
    #[arg(long, default_value_t = 9000)]
    s3_port: u16,
    /// Port of the first replica; gRPC has the next one, operations the one after it.
    #[arg(long, default_value_t = 8080)]
    first_port: u16,
    /// Port of the second replica; gRPC has the next one, operations the one after it.
    #[arg(long, default_value_t = 8090)]
    second_port: u16,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let ports = [(arguments.first_port, "--first-port"), (arguments.second_port, "--second-port")];
    is_free(arguments.s3_port, "--s3-port")?;
    for (port, flag) in ports {
        for port in port..=port + 2 {
            is_free(port, flag)?;
        }
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
    runtime.block_on(async {
        // Ctrl-C reaches the servers too; what waits for them fails then, and everything is cleaned up.
        let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
        progress("starting the S3 server");
        let mut s3 = S3::start(&arguments.setup, arguments.s3_port)?;
        progress("pushing two versions");
        s3.fill(&arguments.setup)?;
        let caches = [tempfile::tempdir()?, tempfile::tempdir()?];
        let mut replicas = Vec::new();
        for ((port, _), cache) in ports.iter().zip(&caches) {
            progress(&format!("starting a replica on port {port}"));
            let cache = cache.path().to_string_lossy();
            let more = ["--poll-interval", POLL, "--cache", &cache];
            let ports = [*port, port + 1, port + 2];
            replicas.push(S3::replica(&port.to_string(), &arguments.setup.onnxd, &s3.endpoint(), ports, &more)?);
        }
        println!("{}", explain(arguments, &s3, &replicas, &caches));
        let mut ticks = tokio::time::interval(WATCH);
        let mut told = vec![String::new(); replicas.len() + 1];
        loop {
            tokio::select! {
                _ = interrupt.recv() => break,
                _ = terminate.recv() => break,
                _ = ticks.tick() => {}
            }
            let mut lines: Vec<_> = replicas.iter().map(serves).collect();
            lines.push(if s3.is_running() { String::new() } else { "the S3 server has ended".to_owned() });
            for (line, told) in lines.into_iter().zip(&mut told) {
                if line != *told {
                    let now = OffsetDateTime::now_utc();
                    println!("{:02}:{:02}:{:02} UTC  {line}", now.hour(), now.minute(), now.second());
                    *told = line;
                }
            }
        }
        progress("stopping");
        Ok(())
    })
}

/// One line on what a replica serves now.
fn serves(replica: &Server) -> String {
    let status = state(replica);
    if status.is_null() {
        return format!("{}  does not answer", replica.name);
    }
    describe(&replica.name, &status)
}

fn describe(name: &str, status: &Value) -> String {
    let model = &status["models"][0];
    let version = |role: &str| model[role]["version"].as_str().unwrap_or("none").to_owned();
    let mut line = format!(
        "{name}  champion {}, challenger {}, previous {}, epoch {}",
        version("champion"),
        version("challenger"),
        version("previous"),
        model["epoch"]
    );
    for rejected in model["rejected"].as_array().into_iter().flatten() {
        let text = |key: &str| rejected[key].as_str().unwrap_or_default().to_owned();
        line += &format!("; version {} refused at {}: {}", text("version"), text("stage"), text("reason"));
    }
    if let Some(error) = model["error"].as_str() {
        line += &format!("; goes on, but: {error}");
    }
    // The words differ from poll to poll.
    if status["source"]["error"].is_string() {
        line += "; goes on, S3 cannot be read";
    }
    line
}

/// What runs where, and what one may try.
fn explain(arguments: &Arguments, s3: &S3, replicas: &[Server], caches: &[TempDir]) -> String {
    let (endpoint, repository, id) = (s3.endpoint(), S3::repository(), s3.id());
    let onnxd = arguments.setup.onnxd.display();
    let python = arguments.setup.python.display();
    let mut text = format!("\nWhat runs\n  S3         {endpoint}, bucket {BUCKET}, in memory, process {id}\n");
    let row = |replica: &Server, cache: &Path| {
        let (process, log) = replica.process();
        let ops = replica.ops.map(|ops| ops.to_string()).unwrap_or_default();
        format!(
            "  replica    http://{}/predict, operations http://{ops}, process {process}\n             cache {}, log {}\n",
            replica.target.address,
            cache.display(),
            log.display(),
        )
    };
    for (replica, cache) in replicas.iter().zip(caches) {
        text += &row(replica, cache.path());
    }
    let (first, cache) = (arguments.first_port, caches[0].path().display());
    text += &format!(
        r#"
In another terminal, in this folder, first
  export AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test AWS_REGION=us-east-1 AWS_ENDPOINT_URL={endpoint}
  export ONNXD_REPOSITORY={repository} ONNXD_S3_ENDPOINT={endpoint}

Ask, and see which version answers
  curl -si localhost:{first}/predict -H 'content-type: application/json' -d '{{"cpu_zscore": 2.1, "memory_zscore": 1.5}}'

Promote, go back, look
  {onnxd} promote 2 --reason 'to see it'
  {onnxd} rollback
  {onnxd} status --model {MODEL}

Promote version 2 with the AWS CLI and jq
  sha=$(aws s3 cp {repository}/{MODEL}/2/manifest.json - | sha256sum | cut -d' ' -f1)
  etag=$(aws s3api get-object --bucket {BUCKET} --key {POINTER} --query ETag --output text /tmp/old.json)
  jq --arg sha "$sha" '.previous = .champion | .champion = "2" | .challengers = [] | .epoch += 1
    | .manifest_sha256["2"] = $sha | .by = "me" | .reason = "by hand" | .updated_at = (now | todate)' /tmp/old.json > /tmp/new.json
  aws s3api put-object --bucket {BUCKET} --key {POINTER} --body /tmp/new.json --if-match "$etag"

Promote version 1 with boto3
  {python} - <<'END'
import boto3, datetime, hashlib, json
s3, place = boto3.client("s3"), {{"Bucket": "{BUCKET}", "Key": "{POINTER}"}}
old = s3.get_object(**place)
new = json.load(old["Body"])
manifest = s3.get_object(Bucket="{BUCKET}", Key="{MODEL}/1/manifest.json")["Body"].read()
new.update(previous=new["champion"], champion="1", challengers=[], epoch=new["epoch"] + 1, by="me",
           reason="by hand", updated_at=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
new["manifest_sha256"]["1"] = hashlib.sha256(manifest).hexdigest()
s3.put_object(**place, Body=json.dumps(new).encode(), IfMatch=old["ETag"])
END

See S3 fall silent and the replicas go on; start one more from the first one's cache; let S3 come back
  kill -STOP {id}
  curl -s localhost:{ops}/readyz
  {onnxd} serve --http 127.0.0.1:8100 --grpc 127.0.0.1:8101 --ops 127.0.0.1:8102 --cache {cache}
  kill -CONT {id}

Ctrl-C ends all of it. Until then, this is what the replicas serve:"#,
        ops = first + 2,
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_line_tells_what_serves_and_what_is_wrong() {
        let mut status = json!({
            "source": {"error": null},
            "models": [{"epoch": 3, "champion": {"version": "2"}, "challenger": null, "previous": {"version": "1"},
                        "rejected": [], "error": null}]
        });
        assert_eq!(describe("8080", &status), "8080  champion 2, challenger none, previous 1, epoch 3");
        status["source"]["error"] = json!("cannot be reached");
        status["models"][0]["rejected"] = json!([{"version": "4", "stage": "verify", "reason": "too short"}]);
        let line = describe("8080", &status);
        assert!(line.contains("version 4 refused at verify: too short; goes on, S3 cannot be read"), "{line}");
    }
}
