//! Other servers: asked all at once and never waited for, and told without keeping anyone waiting.

mod common;

use std::net::TcpListener;
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::peer::Peer;
use common::wait_for;
use onnxd::peers::{Gathered, Peers, Teller};
use serde_json::{Value, json};

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
        teller.tell("/models/anomaly/feedback", Bytes::from(json!({"row": i}).to_string()));
    }
    let told = wait_for("all of it", || Some(teller.told()).filter(|told| told.told + told.failed == 150));
    assert_eq!((told.told, told.failed, told.dropped), (100, 50, 0));
    for peer in [&a, &b] {
        let rows: Vec<Value> = peer
            .posted()
            .iter()
            .map(|(path, body)| {
                assert_eq!(path, "/models/anomaly/feedback");
                serde_json::from_slice::<Value>(body).expect("JSON")["row"].clone()
            })
            .collect();
        assert_eq!(rows, (0..50).map(|i| json!(i)).collect::<Vec<_>>(), "in order");
    }
}

#[test]
fn what_finds_no_room_is_dropped_and_counted() {
    let (_listening, address) = silent();
    let teller = Teller::start(peers(std::slice::from_ref(&address))).expect("a thread");
    let begin = Instant::now();
    for _ in 0..1100 {
        teller.tell("/models/anomaly/feedback", Bytes::from_static(b"{}"));
    }
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?}", begin.elapsed());
    // One is on its way, perhaps, and 1024 wait.
    let dropped = teller.told().dropped;
    assert!((75..=76).contains(&dropped), "{dropped}");
    // A peer that was late is left alone, so that the queue empties although it never answers.
    wait_for("an empty queue", || (teller.told().failed == 1100 - dropped).then_some(()));
    let teller = Teller::start(peers(&[address])).expect("a thread");
    let large = Bytes::from(vec![b' '; 1 << 20]);
    for _ in 0..10 {
        teller.tell("/models/anomaly/feedback", large.clone());
    }
    assert_eq!(teller.told().dropped, 2, "eight of 1 MiB fit");
    // Nobody to tell, nothing to do.
    let nobody = Teller::start(Peers::default()).expect("nothing");
    nobody.tell("/models/anomaly/feedback", large);
    assert_eq!(nobody.told(), onnxd::peers::Told::default());
}
