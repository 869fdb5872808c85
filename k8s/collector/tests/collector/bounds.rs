//! What is bounded: series, rows of a request.

use crate::process::value;
use crate::world::World;

#[test]
fn series_beyond_the_bound_are_refused_and_the_others_go_on() {
    let Some(world) = World::start(&["shop/a", "shop/b", "shop/c"]) else { return };
    let mut collector = world.collector(&["--max-series", "2"]);
    collector.ticks("ok", 2.0);
    let page = collector.page();
    assert_eq!(value(&page, "anomaly_detected{series=\"shop/a\"}"), Some(0.0));
    assert_eq!(value(&page, "anomaly_detected{series=\"shop/b\"}"), Some(0.0));
    assert_eq!(value(&page, "anomaly_detected{series=\"shop/c\"}"), None);
    assert!(value(&page, "collector_series_refused_total").is_some_and(|refused| refused >= 2.0));
}

#[test]
fn a_server_that_takes_few_rows_is_asked_more_often() {
    let Some(world) = World::start(&["shop/a", "shop/b", "shop/c"]) else { return };
    let mut collector = world.collector(&["--max-rows", "2"]);
    collector.ticks("ok", 2.0);
    assert_eq!(collector.value("anomaly_detected{series=\"shop/c\"}"), Some(0.0));
    let requests = world.onnxd.metric(
        "onnxd_inference_requests_total{model=\"anomaly\",role=\"champion\",protocol=\"predict\",outcome=\"ok\"}",
    );
    assert!(requests >= 4.0, "{requests} requests");
}
