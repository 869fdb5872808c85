//! Prometheus, the server or the bucket is away: a metric, one line in the log, and all goes on when it is back.

use std::fs;

use crate::process::{Collector, S3, folder, get, python, wait_for};
use crate::world::{World, endless};

const PODS: [&str; 2] = ["shop/cart", "shop/pay"];

#[test]
fn a_server_that_is_away_is_told_once_and_learns_afterwards_what_came() {
    let Some(mut world) = World::start(&PODS) else { return };
    let mut collector = world.collector(&[]);
    collector.ticks("ok", 2.0);
    world.onnxd.program.kill();
    collector.ticks("server", 2.0);
    // What is shown is of the last answer, and not for long.
    collector.until_gone("anomaly_detected{series=\"shop/cart\"}");
    assert!(collector.value("anomaly_zscore{series=\"shop/cart\",channel=\"cpu\"}").is_some(), "Prometheus answers");
    collector.ticks("server", 1.0);
    assert_eq!(collector.said("server", "cannot be reached"), 1, "{}", collector.program.log());
    assert_eq!(get(collector.ops, "/readyz").map(|(status, _)| status), Some(200));
    world.onnxd.restart();
    collector.until("anomaly_detected{series=\"shop/cart\"}", |detected| detected == 0.0);
    collector.until("collector_feedback_total{outcome=\"ok\"}", |labels| labels >= 4.0);
    assert_eq!(collector.said("server", "works again"), 1);
    let log = collector.program.log();
    assert!(!log.contains("panicked"), "{log}");
}

#[test]
fn a_prometheus_that_is_away_is_told_once_and_missed_ticks_are_made_up() {
    let Some(mut world) = World::start(&PODS) else { return };
    let rows = world.path().join("rows");
    let mut collector = world.collector(&["--rows", &rows.display().to_string()]);
    collector.ticks("ok", 2.0);
    world.prometheus.kill();
    collector.ticks("prometheus", 3.0);
    assert_eq!(collector.said("prometheus", "cannot be reached"), 1, "{}", collector.program.log());
    collector.until_gone("anomaly_zscore{series=\"shop/cart\",channel=\"cpu\"}");
    world.prometheus.restart();
    collector.ticks("ok", 2.0);
    // For five minutes Prometheus repeats what it scraped last, so that the missed ticks have values.
    collector.until("collector_feedback_total{outcome=\"ok\"}", |labels| labels >= 4.0);
    assert_eq!(collector.program.stop().code(), Some(0));
    let script = "import sys, json; from pyarrow import dataset; t = dataset.dataset(sys.argv[1], format='parquet').to_table(); print(json.dumps([t.num_rows, t['score'].null_count, t['cpu_zscore'].null_count, t['version'].unique().to_pylist()]))";
    let Some(text) = python(script, &[&rows.display().to_string()]) else { return };
    let counts: (u64, u64, u64, Vec<Option<String>>) = serde_json::from_str(&text).expect("JSON");
    assert!(counts.1 >= 4 && counts.0 > counts.1, "{counts:?}");
    assert_eq!(counts.2, 0, "they have features all the same: {counts:?}");
    assert!(counts.3.contains(&Some("1".into())), "{counts:?}");
}

#[test]
fn without_prometheus_it_is_not_ready_and_says_why() {
    let Some(mut world) = World::start(&PODS) else { return };
    world.prometheus.kill();
    let mut collector = world.collector(&[]);
    collector.ticks("prometheus", 1.0);
    let (status, reason) = get(collector.ops, "/readyz").expect("an answer");
    assert_eq!(status, 503);
    assert!(reason.starts_with("not ready: http://127.0.0.1:") && reason.contains("cannot be reached"), "{reason}");
    world.prometheus.restart();
    collector.ticks("ok", 1.0);
    assert_eq!(get(collector.ops, "/readyz").map(|(status, _)| status), Some(200));
    assert_eq!(collector.program.stop().code(), Some(0));
}

#[test]
fn an_answer_without_an_end_is_not_read_to_its_end() {
    let folder = folder();
    let address = format!("http://127.0.0.1:{}", endless());
    let mut collector = Collector::start(folder.path(), &["run", "--prometheus", &address, "--step", "30s"]);
    let (_, reason) = wait_for("the reason", || {
        get(collector.ops, "/readyz").filter(|(_, reason)| reason.contains("answers with more than 64 MiB"))
    });
    assert!(reason.contains("own: "), "it names the query: {reason}");
    assert_eq!(collector.program.stop().code(), Some(0));
}

#[test]
fn rows_wait_for_a_bucket_that_is_not_there_yet() {
    let Some(world) = World::start(&PODS) else { return };
    let Some(s3) = S3::start() else { return };
    let args = ["--rows", "s3://metrics/fleet", "--rows-every", "1s", "--s3-endpoint", &s3.url];
    let mut collector = world.collector(&args);
    wait_for("the fault", || (collector.said("rows", "NoSuchBucket") > 0).then_some(()));
    assert_eq!(collector.value("collector_rows_total{outcome=\"written\"}"), Some(0.0));
    let bucket = "import boto3, sys; boto3.client('s3', endpoint_url=sys.argv[1]).create_bucket(Bucket='metrics')";
    python(bucket, &[&s3.url]);
    collector.until("collector_rows_total{outcome=\"written\"}", |rows| rows >= 4.0);
    assert_eq!(collector.program.stop().code(), Some(0));
    let list = "import boto3, sys; print('\\n'.join(o['Key'] for o in boto3.client('s3', endpoint_url=sys.argv[1]).list_objects_v2(Bucket='metrics')['Contents']))";
    let keys = python(list, &[&s3.url]).expect("Python");
    assert!(keys.lines().all(|key| key.starts_with("fleet/date=20") && key.ends_with(".parquet")), "{keys}");
}

#[test]
fn rows_without_room_are_counted_and_the_end_is_bounded() {
    let Some(world) = World::start(&PODS) else { return };
    fs::write(world.path().join("file"), "").expect("a file");
    let place = world.path().join("file").join("rows").display().to_string();
    let mut collector = world.collector(&["--rows", &place, "--rows-every", "1s", "--rows-buffer", "4"]);
    collector.until("collector_rows_total{outcome=\"lost\"}", |rows| rows >= 2.0);
    collector.ticks("ok", 1.0);
    assert_eq!(collector.program.stop().code(), Some(0));
    assert!(collector.program.log().contains("rows were not written before the end"), "{}", collector.program.log());
}
