//! `collector run` with a real Prometheus and a real onnxd.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::Field;

use crate::process::{Collector, Onnxd, Prometheus, folder, get, python, value};
use crate::world::{LEVELS, World, now};

const PODS: [&str; 3] = ["shop/cart", "shop/pay", "shop/ship"];

/// What a collector wrote: by series and time, the bits of CPU and of the features.
fn written(folder: &Path) -> BTreeMap<(String, i64), Vec<Option<u64>>> {
    let mut rows = BTreeMap::new();
    for date in fs::read_dir(folder).expect("a folder").flatten() {
        for file in fs::read_dir(date.path()).expect("a folder").flatten() {
            let file = fs::File::open(file.path()).expect("a file");
            for row in SerializedFileReader::new(file).expect("Parquet").get_row_iter(None).expect("rows") {
                let columns: BTreeMap<String, Field> = row.expect("a row").into_columns().into_iter().collect();
                let (Field::Str(series), Field::Long(ts)) = (&columns["series"], &columns["ts"]) else {
                    panic!("{columns:?}")
                };
                let bits = |name: &&str| match columns[*name] {
                    Field::Float(value) => Some(u64::from(value.to_bits())),
                    Field::Double(value) => Some(value.to_bits()),
                    _ => None,
                };
                let names =
                    ["cpu_percent", "cpu_zscore", "memory_zscore", "disk_io_zscore", "cpu_baseline", "cpu_scale"];
                rows.insert((series.clone(), *ts), names.iter().map(bits).collect());
            }
        }
    }
    rows
}

#[test]
fn the_first_tick_is_warm_and_all_gauges_are_there() {
    let Some(world) = World::start(&PODS) else { return };
    let mut collector = world.collector(&[]);
    collector.ticks("ok", 2.0);
    assert_eq!(get(collector.ops, "/readyz"), Some((200, "ready\n".into())));
    assert_eq!(get(collector.ops, "/livez").map(|(status, _)| status), Some(200));
    let page = collector.page();
    let metric = |name: &str| value(&page, name).unwrap_or_else(|| panic!("no {name} in\n{page}"));
    for pod in PODS {
        for channel in ["cpu", "memory", "disk_io"] {
            assert!(metric(&format!("anomaly_zscore{{series=\"{pod}\",channel=\"{channel}\"}}")).abs() < 3.0);
        }
        let measured = metric(&format!("anomaly_value{{series=\"{pod}\",channel=\"cpu\"}}"));
        assert!((19.0..=21.0).contains(&measured), "{measured}");
        assert_eq!(metric(&format!("anomaly_detected{{series=\"{pod}\"}}")), 0.0);
        assert!((0.0..0.5).contains(&metric(&format!("anomaly_score{{series=\"{pod}\"}}"))));
        assert!((0.0..=100.0).contains(&metric(&format!("anomaly_forecast_percent{{series=\"{pod}\"}}"))));
    }
    assert_eq!(metric("collector_series{state=\"warm\"}"), 3.0);
    assert_eq!(metric("collector_series{state=\"warming\"}"), 0.0);
    assert!(metric("collector_predictions_total{outcome=\"ok\"}") >= 6.0);
    assert!((now() as f64 - metric("collector_last_tick_timestamp_seconds")) < 60.0);
    assert!(page.contains("collector_tick_duration_seconds_bucket{le=\"0.1\"}"));
    assert!(page.contains(&format!("collector_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION"))));
    // One request a tick: the rows are answered together.
    let requests = world.onnxd.metric(
        "onnxd_inference_requests_total{model=\"anomaly\",role=\"champion\",protocol=\"predict\",outcome=\"ok\"}",
    );
    let ticks = collector.value("collector_ticks_total{outcome=\"ok\"}").expect("a counter");
    assert!((requests - ticks).abs() <= 1.0, "{requests} requests in {ticks} ticks");
}

#[test]
fn a_restart_is_as_if_there_had_been_none_alerts_included() {
    let Some(world) = World::start(&PODS) else { return };
    let rows = |name: &str| world.path().join(name).display().to_string();
    let (first, second, third) = (rows("first"), rows("second"), rows("third"));
    let mut one = world.collector(&["--rows", &first, "--rows-every", "1s"]);
    one.ticks("ok", 2.0);
    world.fleet.set("shop/cart", [95.0, 60.0, 90.0]);
    one.until("anomaly_detected{series=\"shop/cart\"}", |detected| detected == 1.0);
    one.until("collector_series{state=\"frozen\"}", |frozen| frozen == 1.0);
    one.ticks("ok", 8.0);
    world.fleet.set("shop/cart", LEVELS);
    one.until("anomaly_detected{series=\"shop/cart\"}", |detected| detected == 0.0);
    one.ticks("ok", 4.0);
    // Both at once, so that each time is seen by the process that was there all the time and by the ones that were not.
    let mut two = world.collector(&["--rows", &second, "--rows-every", "1s"]);
    let mut three = world.forgetful(&["--rows", &third, "--rows-every", "1s"]);
    two.ticks("ok", 4.0);
    three.ticks("ok", 4.0);
    for collector in [&mut one, &mut two, &mut three] {
        assert_eq!(collector.program.stop().code(), Some(0));
    }
    let (first, second, third) = (written(Path::new(&first)), written(Path::new(&second)), written(Path::new(&third)));
    let both = second.iter().filter(|(key, _)| first.contains_key(key));
    assert!(both.clone().count() >= 9, "{} and {} rows", first.len(), second.len());
    for (key, features) in both {
        assert_eq!(&first[key], features, "{key:?}");
    }
    // It would show if the samples of the alert had been learned.
    let cart = third.iter().filter(|(key, _)| key.0 == "shop/cart" && first.contains_key(key));
    let differ = cart.clone().filter(|(key, row)| first[key] != **row).count();
    assert!(differ > 0, "of {} rows none differs where alerts are not read back", cart.count());
}

#[test]
fn a_series_that_vanishes_takes_its_gauges_with_it() {
    let odd = "shop/a\"b\\c\nd";
    let Some(world) = World::start(&["shop/cart"]) else { return };
    world.fleet.add(odd);
    let mut collector = world.collector(&[]);
    let gauge = "anomaly_value{series=\"shop/a\\\"b\\\\c\\nd\",channel=\"cpu\"}";
    collector.until(gauge, |cpu| cpu > 10.0);
    collector.until("collector_series{state=\"warming\"}", |warming| warming == 1.0);
    world.fleet.remove(odd);
    collector.until_gone(gauge);
    collector.until("anomaly_detected{series=\"shop/cart\"}", |detected| detected == 0.0);
}

#[test]
fn faults_become_labels_when_they_end() {
    let Some(world) = World::start(&PODS) else { return };
    let mut collector = world.collector(&[]);
    // It is scraped by now.
    collector.until("collector_queries_total{channel=\"faults\",outcome=\"ok\"}", |queries| queries >= 1.0);
    world.fleet.fault("shop/pay", true);
    collector.ticks("ok", 3.0);
    assert_eq!(collector.value("collector_feedback_total{outcome=\"ok\"}"), Some(0.0));
    world.fleet.fault("shop/pay", false);
    collector.until("collector_feedback_total{outcome=\"ok\"}", |labels| labels == 1.0);
    let joined = "onnxd_feedback_total{model=\"anomaly\",source=\"chaos\",outcome=\"joined\"}";
    crate::process::wait_for("the label at the server", || (world.onnxd.metric(joined) >= 2.0).then_some(()));
}

/// What kube-state-metrics and Chaos Mesh's controller manager export: who has the label, and an experiment of `shop` in a phase.
fn exported(phase: &str) -> String {
    let label = |value: &str| format!(",label_onnxd_dev_chaos=\"{value}\"");
    let pods = [
        ("shop", "pay", label("StressChaos")),
        // Of these none is hit: the label names another kind, there is none, nothing runs in the namespace.
        ("shop", "ship", label("IOChaos")),
        ("shop", "cart", String::new()),
        ("ops", "batch", label("StressChaos")),
    ];
    let experiments =
        [("shop", "StressChaos", phase), ("shop", "NetworkChaos", "running"), ("ml", "StressChaos", "running")];
    let mut out = "# TYPE kube_pod_labels gauge\n".to_owned();
    for (namespace, pod, label) in pods {
        out += &format!("kube_pod_labels{{namespace=\"{namespace}\",pod=\"{pod}\",uid=\"8c2e-{pod}\"{label}}} 1\n");
    }
    out += "# TYPE chaos_controller_manager_chaos_experiments gauge\n";
    for (namespace, kind, phase) in experiments {
        let labels = format!("kind=\"{kind}\",namespace=\"{namespace}\",phase=\"{phase}\"");
        out += &format!("chaos_controller_manager_chaos_experiments{{{labels}}} 1\n");
    }
    out
}

#[test]
fn the_default_query_makes_a_label_of_an_experiment_of_chaos_mesh() {
    let Some(world) = World::start(&["ops/batch", "shop/cart", "shop/pay", "shop/ship"]) else { return };
    let mut collector = world.collector_with_default_faults();
    // Most clusters have neither metric: nothing is said of that.
    collector.until("collector_queries_total{channel=\"faults\",outcome=\"empty\"}", |queries| queries >= 2.0);
    assert_eq!(collector.said("pods: faults", ""), 0, "{}", collector.program.log());
    let seen = "collector_queries_total{channel=\"faults\",outcome=\"ok\"}";
    world.fleet.others(&exported("injecting"));
    collector.ticks("ok", 3.0);
    assert_eq!(collector.value(seen), None, "it does not run yet");
    world.fleet.others(&exported("running"));
    collector.until(seen, |queries| queries >= 4.0);
    assert_eq!(collector.value("collector_feedback_total{outcome=\"ok\"}"), Some(0.0));
    world.fleet.others(&exported("finished"));
    // One pod was hit. Labels of others would end, and be sent, with its own.
    collector.until("collector_feedback_total{outcome=\"ok\"}", |labels| labels == 1.0);
    let joined = "onnxd_feedback_total{model=\"anomaly\",source=\"chaos\",outcome=\"joined\"}";
    crate::process::wait_for("the label at the server", || (world.onnxd.metric(joined) >= 2.0).then_some(()));
}

/// Half an hour of kubelet's and node-exporter's metrics, until now: half a core and 100 MB are the limits.
fn kubelet() -> String {
    let times: Vec<i64> = (0..60).rev().map(|ago| now() - 30 * ago).collect();
    let mut out = String::new();
    let mut family = |name: &str, kind: &str, series: &[(&str, f64, f64)]| {
        out += &format!("# TYPE {} {kind}\n", name.trim_end_matches("_total"));
        for (labels, from, rate) in series {
            for (i, time) in times.iter().enumerate() {
                out += &format!("{name}{{{labels}}} {} {time}\n", from + rate * 30.0 * i as f64);
            }
        }
    };
    let app = "namespace=\"shop\",pod=\"cart\",container=\"app\"";
    let pause = "namespace=\"shop\",pod=\"cart\",container=\"POD\"";
    family("container_cpu_usage_seconds_total", "counter", &[(app, 0.0, 0.1), (pause, 0.0, 9.0)]);
    family("container_memory_working_set_bytes", "gauge", &[(app, 4e7, 0.0)]);
    family("container_fs_reads_total", "counter", &[(app, 0.0, 10.0)]);
    family("container_fs_writes_total", "counter", &[(app, 0.0, 20.0)]);
    let limits = [format!("{app},resource=\"cpu\""), format!("{app},resource=\"memory\"")];
    family("kube_pod_container_resource_limits", "gauge", &[(&limits[0], 0.5, 0.0), (&limits[1], 1e8, 0.0)]);
    let cpus = [0, 1].map(|cpu| format!("node=\"node-a\",mode=\"idle\",cpu=\"{cpu}\""));
    family("node_cpu_seconds_total", "counter", &[(&cpus[0], 0.0, 0.5), (&cpus[1], 0.0, 0.7)]);
    family("node_memory_MemAvailable_bytes", "gauge", &[("node=\"node-a\"", 3e9, 0.0)]);
    family("node_memory_MemTotal_bytes", "gauge", &[("node=\"node-a\"", 4e9, 0.0)]);
    family("node_disk_reads_completed_total", "counter", &[("node=\"node-a\",device=\"sda\"", 0.0, 3.0)]);
    family("node_disk_writes_completed_total", "counter", &[("node=\"node-a\",device=\"sda\"", 0.0, 4.0)]);
    out + "# EOF\n"
}

#[test]
fn the_default_queries_measure_pods_and_nodes() {
    let folder = folder();
    let Some(onnxd) = Onnxd::start(folder.path(), &[]) else { return };
    let Some(prometheus) = Prometheus::start(folder.path(), &kubelet(), &[]) else { return };
    // One tick is enough: the first one, which is of this minute.
    let args = ["run", "--prometheus", &prometheus.url(), "--server", &onnxd.url(), "--delay", "0s"];
    let mut collector = Collector::start(folder.path(), &args);
    collector.ticks("ok", 1.0);
    let page = collector.page();
    let measured = |series: &str| {
        ["cpu", "memory", "disk_io"].map(|channel| {
            let name = format!("anomaly_value{{series=\"{series}\",channel=\"{channel}\"}}");
            (value(&page, &name).unwrap_or_else(|| panic!("no {name} in\n{page}")) * 1e6).round() / 1e6
        })
    };
    assert_eq!(measured("shop/cart"), [20.0, 40.0, 30.0]);
    assert_eq!(measured("node-a"), [40.0, 25.0, 7.0]);
    assert_eq!(value(&page, "anomaly_detected{series=\"node-a\"}"), Some(0.0));
}

#[test]
fn the_pods_queries_are_those_that_training_asks() {
    let script = "import json; from training.data.prometheus import Queries as Q; print(json.dumps([Q.cpu, Q.memory, Q.disk_io, Q.faults, list(Q.labels)]))";
    let Some(text) = python(script, &[]) else { return };
    let sources = collector::sources::Sources::parse(collector::sources::DEFAULT).expect("the default");
    let pods = &sources.sources[0];
    let ours = serde_json::json!([pods.cpu, pods.memory, pods.disk_io, pods.faults, pods.labels]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), ours);
}
