//! The load generator against a server: each way of asking is understood and answered well.

mod common;

use std::time::Duration;

use common::Server;
use common::repo::Repo;
use onnxd::load::model::{Model, Protocol};
use onnxd::load::{self, Plan};
use serde_json::Value;

#[test]
fn a_model_is_asked_in_every_way_by_what_the_server_tells_of_it() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let model = Model::ask(server.http, None).expect("it has one model");
    assert_eq!(model.features().map(<[String]>::len), Some(5));
    for protocol in [Protocol::Json, Protocol::Oip, Protocol::Binary, Protocol::Grpc] {
        for rows in [1, 20] {
            let tables = model.tables(8, rows, 1).expect("rows can be made up");
            let requests = model.requests(protocol, &tables, 2).expect("they can be written");
            let address = if protocol == Protocol::Grpc { server.grpc } else { server.http };
            let plan = Plan::new(model.target(address, protocol), requests, 4, Duration::from_millis(200));
            let outcome = load::run(&plan).expect("the server is there");
            assert_eq!(outcome.errors(), 0, "{protocol:?}, {rows} rows: {:?}", outcome.statuses);
            assert!(outcome.answered() > 10, "{protocol:?}, {rows} rows: {}", outcome.answered());
        }
    }
}

#[test]
fn what_a_server_refuses_is_counted_by_its_status() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let mut model = Model::ask(server.http, Some("anomaly")).expect("it is served");
    model.name = "nobody".to_owned();
    let tables = model.tables(1, 1, 1).expect("rows can be made up");
    for (protocol, address, status) in [(Protocol::Oip, server.http, 404), (Protocol::Grpc, server.grpc, 5)] {
        let requests = model.requests(protocol, &tables, 1).expect("they can be written");
        let plan = Plan::new(model.target(address, protocol), requests, 1, Duration::from_millis(50));
        let outcome = load::run(&plan).expect("the server is there");
        assert!(outcome.answered() > 0);
        assert_eq!(outcome.statuses.keys().collect::<Vec<_>>(), [&status], "{protocol:?}");
        assert_eq!(outcome.errors(), outcome.answered());
    }
    assert!(Model::ask(server.http, Some("nobody")).is_err());
}

#[test]
fn rows_of_a_batch_are_answered_each() {
    let repo = Repo::serving("good", None);
    let server = Server::start(repo.path(), &[]);
    let model = Model::ask(server.http, None).expect("it has one model");
    let tables = model.tables(1, 7, 1).expect("rows can be made up");
    let requests = model.requests(Protocol::Json, &tables, 1).expect("they can be written");
    let mut plan = Plan::new(model.target(server.http, Protocol::Json), requests, 1, Duration::from_millis(50));
    plan.is_good = |body| {
        let answer: Value = serde_json::from_slice(body).unwrap_or_default();
        answer["predictions"].as_array().is_some_and(|rows| rows.len() == 7 && rows[6]["score"].is_number())
    };
    let outcome = load::run(&plan).expect("the server is there");
    assert_eq!((outcome.errors(), outcome.answered() > 0), (0, true));
}
