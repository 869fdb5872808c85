//! Other servers: asked all at once and never waited for, and told without keeping anyone waiting.

mod common;

use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::peer::Peer;
use common::repo::Repo;
use common::{Server, wait_for};
use onnxd::peers::{Gathered, Peers, Teller};
use onnxd::shadow::origin::now;
use serde_json::{Value, json};

const LABELS: &str = "/models/anomaly/labels";

fn peers(list: &[String]) -> Peers {
    list.join(",").parse().expect("peers")
}

fn gather(list: &[String]) -> Gathered<Value> {
    peers(list).gather_here("/models/anomaly/shadow").expect("a runtime")
}

/// Accepts connections and never says anything.
fn silent() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    (listener, address)
}

#[test]
fn each_peer_is_asked_once_and_whoever_does_not_tell_is_named() {
    let [good, other, gone, foreign] = [(); 4].map(|()| Peer::start());
    good.tell("/models/anomaly/shadow", 200, r#"{"server": "a"}"#);
    other.tell("/models/anomaly/shadow", 200, r#"{"server": "b"}"#);
    gone.tell("/models/anomaly/shadow", 503, r#"{"detail": "no model serves yet"}"#);
    foreign.tell("/models/anomaly/shadow", 200, "<html>");
    let closed = silent().1;
    let [good, other, gone, foreign] = [good, other, gone, foreign].map(|peer| (peer.address.to_string(), peer));
    let list = [&good.0, &good.0, &other.0, &gone.0, &foreign.0, &closed].map(Clone::clone);
    let Gathered { answers, missing } = gather(&list);
    assert_eq!(answers, [json!({"server": "a"}), json!({"server": "b"})], "in the order of the list");
    assert_eq!(good.1.asked(), 1, "an address that is named twice is asked once");
    assert_eq!(missing.len(), 3, "{missing:?}");
    for (address, reason) in [(&gone.0, "503"), (&foreign.0, "does not know"), (&closed, "cannot be reached")] {
        let told = missing.iter().find(|told| told.starts_with(address.as_str())).expect("it is named");
        assert!(told.contains(reason), "{told}");
    }
    assert!(missing.iter().any(|told| told.contains("no model serves yet")), "{missing:?}");
}

/// A name is looked up, and an address may be of version 6.
#[test]
fn names_stand_for_their_addresses() {
    let peer = Peer::start();
    peer.tell("/models/anomaly/shadow", 200, "1");
    let port = peer.address.port();
    let Gathered { answers, missing } = gather(&[format!("localhost:{port}"), format!("127.0.0.1:{port}")]);
    assert_eq!(answers, [json!(1)], "{missing:?}");
    assert_eq!(peer.asked(), 1);
    let Gathered { answers, missing } = gather(&["no-such-host.invalid:80".into()]);
    assert!(answers.is_empty() && missing.len() == 1, "{missing:?}");
    assert!(missing[0].starts_with("no-such-host.invalid:80 "), "{missing:?}");
    match Peer::at("[::1]:0") {
        Ok(six) => {
            six.tell("/models/anomaly/shadow", 200, "6");
            assert_eq!(gather(&[format!("[::1]:{}", six.address.port())]).answers, [json!(6)]);
        }
        // Without version 6, what is asked is still told as missing.
        Err(_) => assert!(gather(&["[::1]:9".into()]).missing[0].starts_with("[::1]:9 ")),
    }
}

#[test]
fn silent_and_endless_peers_are_not_waited_for() {
    let listening: Vec<_> = (0..10).map(|_| silent()).collect();
    let large = Peer::start();
    large.tell("/models/anomaly/shadow", 200, vec![b' '; (16 << 20) + 1]);
    let mut list: Vec<String> = listening.iter().map(|(_, address)| address.clone()).collect();
    list.push(large.address.to_string());
    let begin = Instant::now();
    let missing = gather(&list).missing;
    assert!(begin.elapsed() < Duration::from_secs(8), "ten of them took {:?}", begin.elapsed());
    let late = missing.iter().filter(|told| told.contains("did not answer within 2 s")).count();
    assert_eq!((late, missing.len()), (10, 11), "{missing:?}");
    assert!(missing.iter().any(|told| told.contains("over 16777216 bytes")), "{missing:?}");
}

/// All of 127.0.0.0/8 is this machine, so that one listener is many peers.
#[test]
fn only_some_are_asked_at_a_time_and_not_without_end() {
    let listener = TcpListener::bind("0.0.0.0:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    // How many were accepted, how many of these are not answered yet, and the most of them.
    let counts = Arc::new((Mutex::new((0, 0, 0)), Condvar::new()));
    let counted = Arc::clone(&counts);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let counts = Arc::clone(&counted);
            std::thread::spawn(move || {
                let (lock, changed) = &*counts;
                let mut now = lock.lock().expect("no panic");
                *now = (now.0 + 1, now.1 + 1, now.2.max(now.1 + 1));
                changed.notify_all();
                // The first are answered when as many wait as ever will.
                let wait = |now: &mut (u64, u64, u64)| now.2 < 16;
                now = changed.wait_timeout_while(now, Duration::from_secs(1), wait).expect("no panic").0;
                now.1 -= 1;
                drop(now);
                let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\nconnection: close\r\n\r\n1";
                // A client takes no answer to what it has not asked yet.
                let _ = std::io::Read::read(&mut &stream, &mut [0; 4096]);
                let _ = std::io::Write::write_all(&mut &stream, answer);
            });
        }
    });
    let list: Vec<String> = (0..300).map(|i| format!("127.0.{}.{}:{port}", 1 + i / 200, 1 + i % 200)).collect();
    let Gathered { answers, missing } = gather(&list);
    assert_eq!(answers.len(), 256, "{missing:?}");
    assert_eq!(missing, ["44 peers are beyond the 256 that are asked: name fewer"]);
    let (accepted, _, most) = *counts.0.lock().expect("no panic");
    assert_eq!((accepted, most), (256, 16));
}

#[test]
fn what_is_told_reaches_all_of_them() {
    let [a, b] = [(); 2].map(|()| Peer::start());
    let closed = silent().1;
    let teller = Teller::start(peers(&[a.address.to_string(), closed, b.address.to_string()])).expect("a thread");
    for i in 0..50 {
        teller.tell(LABELS, Bytes::from(json!({"row": i}).to_string()));
    }
    let told = wait_for("all of it", || Some(teller.told()).filter(|told| told.told + told.failed == 150));
    assert_eq!((told.told, told.failed, told.dropped), (100, 50, 0));
    for peer in [&a, &b] {
        let rows: Vec<Value> = peer
            .posted()
            .iter()
            .map(|(path, body)| {
                assert_eq!(path, LABELS);
                serde_json::from_slice::<Value>(body).expect("JSON")["row"].clone()
            })
            .collect();
        assert_eq!(rows, (0..50).map(|i| json!(i)).collect::<Vec<_>>(), "in order");
    }
}

#[test]
fn what_waits_too_long_is_dropped_and_counted() {
    let (_listening, address) = silent();
    let teller = Teller::start(peers(std::slice::from_ref(&address))).expect("a thread");
    let begin = Instant::now();
    for _ in 0..1100 {
        teller.tell(LABELS, Bytes::from_static(b"{}"));
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    // One is on its way, perhaps, and the latest 1024 wait. The peer has missed the others when it is its turn again.
    let told = wait_for("what it missed", || Some(teller.told()).filter(|told| told.dropped > 0));
    assert!((75..=76).contains(&told.dropped) && told.told == 0, "{told:?}");
    let teller = Teller::start(peers(&[address])).expect("a thread");
    let large = Bytes::from(vec![b' '; 1 << 20]);
    for _ in 0..10 {
        teller.tell(LABELS, large.clone());
    }
    let dropped = wait_for("what it missed", || Some(teller.told().dropped).filter(|dropped| *dropped > 0));
    assert!((1..=2).contains(&dropped), "eight of 1 MiB fit: {dropped}");
    // Nobody to tell, nothing to do.
    let nobody = Teller::start(Peers::default()).expect("nothing");
    nobody.tell(LABELS, large);
    assert_eq!(nobody.told(), onnxd::peers::Told::default());
}

#[test]
fn who_hangs_or_has_no_room_delays_nobody() {
    let [good, busy] = [(); 2].map(|()| Peer::start());
    busy.tell(LABELS, 503, r#"{"detail": "the shadow has no room for labels"}"#);
    let (_listening, hanging) = silent();
    let list = [hanging, busy.address.to_string(), good.address.to_string(), "no-such-host.invalid:80".into()];
    let teller = Teller::start(peers(&list)).expect("a thread");
    for _ in 0..200 {
        teller.tell(LABELS, Bytes::from_static(b"{}"));
    }
    // The one takes two seconds for each, the other more than one.
    wait_for("all of it", || (teller.told().told == 200).then_some(()));
    assert_eq!(good.posted().len(), 200);
    wait_for("four tries of the same", || (busy.posted().len() > 4).then_some(()));
    wait_for("what no name takes", || (teller.told().failed > 200).then_some(()));
    let told = teller.told();
    assert!(told.failed < 400 && told.dropped == 0, "{told:?}");
    // As soon as there is room, what has waited comes.
    busy.tell(LABELS, 202, "{}");
    wait_for("the rest", || (teller.told().told > 390).then_some(()));
}

/// Two real servers and one that accepts connections and says nothing: labels reach the living one at once.
#[test]
fn a_server_that_hangs_keeps_no_labels_from_the_others() {
    let repo = Repo::serving("good", Some("other"));
    let living = Server::start(repo.path(), &[]);
    let (_listening, hanging) = silent();
    let list = format!("{hanging},{}", living.ops);
    let told = Server::start(repo.path(), &["--peers", &list]);
    let base = now() - 600;
    let names: Vec<String> = (0..5).map(|i| format!("pod-{i}")).collect();
    let rows = names.iter().map(|name| json!({"cpu_zscore": 1, "memory_zscore": 1, "series": name, "ts": base}));
    living.predict(&rows.collect());
    wait_for("five pairs", || (living.shadow()["pairs"] == json!(5)).then_some(()));
    let outcome = |server: &Server, series: &str| server.metric(series).unwrap_or_default();
    for (turn, name) in names.iter().enumerate() {
        // So many windows are a message.
        let nobody = (0..255).map(|i| format!("nobody-{turn}-{i}"));
        let windows: Vec<Value> = nobody
            .chain([name.clone()])
            .map(|series| json!({"series": series, "from": base - 9, "to": base + 9, "anomaly": true, "source": "chaos"}))
            .collect();
        // On a busy machine its own shadow may have no room yet.
        wait_for("room", || (told.post("/feedback", &json!(windows).to_string()).status == 202).then_some(()));
        let joined = "onnxd_feedback_total{model=\"anomaly\",source=\"chaos\",outcome=\"joined\"}";
        wait_for("the label", || (outcome(&living, joined) > turn as f64).then_some(()));
    }
    let messages = |kind: &str| outcome(&told, &format!("onnxd_peer_messages_total{{outcome=\"{kind}\"}}"));
    wait_for("five messages", || (messages("told") >= 5.0).then_some(()));
    assert!(messages("dropped") == 0.0, "{}", messages("dropped"));
    wait_for("a message that was not taken", || (messages("failed") > 0.0).then_some(()));
}

/// A name is looked up again and again: its new address is told, and the one that is gone is not. A name that is not found for a
/// while keeps the addresses that it had.
#[cfg(target_os = "linux")]
#[test]
fn peers_that_come_and_go_are_followed() {
    let old = Peer::at("127.0.0.2:0").expect("a port");
    let port = old.address.port();
    let new = Peer::at(&format!("127.0.0.3:{port}")).expect("the same port of another address");
    let hosts = tempfile::NamedTempFile::new().expect("a file");
    let name = |line: &str| std::fs::write(hosts.path(), format!("127.0.0.1 localhost\n{line}\n")).expect("written");
    name("127.0.0.2 pods.invalid");
    let repo = Repo::serving("good", None);
    let mount = format!("mount --bind {} /etc/hosts", hosts.path().display());
    let list = format!("pods.invalid:{port}");
    let server = Server::launch_after(&mount, repo.path(), &["--peers", &list]);
    wait_for("readiness", || (server.ops("/readyz").status == 200).then_some(()));
    let tell = || {
        let label = json!({"series": "a", "ts": now(), "anomaly": true, "source": "human"});
        assert_eq!(server.post("/feedback", &label.to_string()).status, 202);
    };
    let told = |peer: &Peer| peer.posted().len();
    tell();
    wait_for("a label", || (told(&old) == 1).then_some(()));
    name("127.0.0.3 pods.invalid");
    wait_for("a label", || {
        tell();
        (told(&new) > 0).then_some(())
    });
    let before = (told(&old), told(&new));
    assert!(before.0 > 0, "{before:?}");
    name("");
    wait_for("the name to be gone", || server.log().contains("a name of other servers is not found").then_some(()));
    tell();
    wait_for("another label", || (told(&new) > before.1).then_some(()));
    assert_eq!(told(&old), before.0);
}
