//! Fixed work whose instructions are counted: what a request costs, piece by piece, whatever the machine is doing.

use std::{
    hint::black_box,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::Arc,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use onnxd::{
    Engine,
    codec::{Form, decode, encode, oip},
    http::{self, Doors, Vertex},
    model::Answer,
    serving::ServingSet,
    verdict::state::{Answer as Judged, Recorder, Row},
};
use tokio::{net::TcpListener, runtime::Builder, sync::watch};

use crate::{
    echo,
    prepared::{self, MODEL, PATIENCE},
};

const MANY: usize = 1000;
const ROW: &str = r#"{"cpu_zscore":2.13,"memory_zscore":-1.52}"#;

/// Does the work whose instructions `instructions` counts: once, then so often that it is counted.
#[derive(clap::Args)]
pub(crate) struct Arguments {
    /// The folder of the version to serve.
    #[arg(default_value = "models/anomaly/1")]
    version: std::path::PathBuf,
}

/// A kind of work, and how often it is done.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) times: usize,
}

/// All of it, in the order in which it is done.
pub(crate) const KINDS: [Kind; 9] = [
    Kind { name: "judge a pair of answers", times: 5000 },
    Kind { name: "decode a row of JSON", times: 1000 },
    Kind { name: "decode 1,000 rows of JSON", times: 5 },
    Kind { name: "decode 1,000 rows of tensors as bytes", times: 20 },
    Kind { name: "encode a row as JSON", times: 1000 },
    Kind { name: "encode 1,000 rows as JSON", times: 5 },
    Kind { name: "run the model on a row", times: 1000 },
    Kind { name: "answer a request", times: 1000 },
    Kind { name: "answer a request by an echo", times: 1000 },
];

/// By its name, the counter is told where counting begins and ends, by turns. (Two functions would be made one, since they do
/// the same.)
#[inline(never)]
fn counting_turns() {
    black_box(());
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut kinds = KINDS.iter();
    let mut count = |work: &mut dyn FnMut()| {
        let Some(kind) = kinds.next() else { return };
        work();
        counting_turns();
        for _ in 0..kind.times {
            work();
        }
        counting_turns();
    };
    verdict(&mut count);
    let (_repository, engine) = prepared::open(&arguments.version)?;
    let lane = engine.lane(MODEL).context("the model does not serve")?;
    // An observer's work on these rows would be counted with whatever is done meanwhile.
    let set = prepared::unobserved(&lane)?;
    codecs(&engine, &set, &mut count)?;
    let sound = "a server that answered just now answers";
    let row = decode::body(&set.champion.signature, ROW.as_bytes(), 1)?.inputs;
    let mut session = set.champion.session(0);
    let deadline = Instant::now() + PATIENCE;
    count(&mut || drop(black_box(session.run(black_box(&row), deadline).expect(sound))));
    drop(session);
    for address in [serve(engine)?, echo::in_thread().http] {
        let mut client = Client::connect(address)?;
        count(&mut || client.ask().expect(sound));
    }
    Ok(())
}

fn codecs(engine: &Engine, set: &Arc<ServingSet>, count: &mut dyn FnMut(&mut dyn FnMut())) -> Result<()> {
    let signature = &set.champion.signature;
    let row = ROW;
    let rows = format!("[{}]", vec![row; MANY].join(","));
    let sound = "what was decoded just now is decoded again";
    for json in [row, &rows] {
        decode::body(signature, json.as_bytes(), MANY)?;
        count(&mut || drop(black_box(decode::body(signature, black_box(json.as_bytes()), MANY).expect(sound))));
    }
    let request = decode::body(signature, rows.as_bytes(), MANY)?;
    let (tensors, json) = prepared::as_bytes(signature, &request.inputs, MANY);
    let bind = |bytes: &[u8]| oip::bind(signature, oip::read::request(bytes, Some(json))?, MANY);
    ensure!(bind(&tensors)?.rows == MANY, "the tensors have other rows than the JSON");
    count(&mut || drop(black_box(bind(black_box(&tensors)).expect(sound))));

    let lane = engine.lane(MODEL).context("the model does not serve")?;
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let answers = runtime.block_on(lane.predict(set, request.inputs, MANY, engine.call("work"), None))?;
    let one = [Answer { outputs: Arc::clone(&answers[0].outputs), rows: 0..1 }];
    for (answers, form) in [(&one[..], Form::One), (&answers[..], Form::Many)] {
        count(&mut || drop(black_box(encode::answer(signature, black_box(answers), form, encode::Classes::Array))));
    }
    Ok(())
}

/// Rows of a minute each of a few series, as in the shadow.
fn verdict(count: &mut dyn FnMut(&mut dyn FnMut())) {
    let mut recorder = Recorder::new(Some(300));
    let (mut row, mut at) = (0_u64, 1_700_000_000);
    count(&mut || {
        row += 1;
        if row % 10 == 0 {
            at += 60;
        }
        let answer = |score: f64| Judged { alarm: Some(score > 0.5), score: Some(score), forecast: Some(10.0 * score) };
        #[expect(clippy::cast_precision_loss, reason = "rows are few")]
        let score = (row as f64 * 0.37).fract();
        recorder
            .record(row, &Row { series: row % 10 + 1, at, champion: answer(score), challenger: answer(score * 0.9) });
    });
    black_box(recorder.save());
}

/// Serves from a thread of this process, until the process ends.
fn serve(engine: Engine) -> Result<SocketAddr> {
    let doors = Doors {
        default_model: None,
        admin_token: None,
        allowed_hosts: vec![],
        body_limit: 16 << 20,
        bodies_limit: 256 << 20,
        vertex: Vertex::default(),
    };
    let door = http::data(http::State::new(engine, doors));
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
    let address = listener.local_addr()?;
    let limits = http::serve::Limits { connections: 2, unread: PATIENCE };
    std::thread::Builder::new().name("http".into()).spawn(move || {
        let (_stop, stopped) = watch::channel(false);
        runtime.block_on(http::serve::serve(listener, None, door, limits, stopped));
    })?;
    Ok(address)
}

/// A client that asks the same again and again, on one connection: how many requests share a run would be chance on several.
struct Client {
    connection: TcpStream,
    request: Vec<u8>,
    answer: Vec<u8>,
}

impl Client {
    fn connect(address: SocketAddr) -> Result<Self> {
        let connection = TcpStream::connect(address)?;
        connection.set_nodelay(true)?;
        let request = format!(
            "POST /predict HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{ROW}",
            ROW.len()
        );
        Ok(Self { connection, request: request.into_bytes(), answer: vec![0; 4096] })
    }

    fn ask(&mut self) -> Result<()> {
        self.connection.write_all(&self.request)?;
        let mut length = 0;
        // The body is the end, and an object.
        while !self.answer[..length].ends_with(b"}") {
            let read = self.connection.read(&mut self.answer[length..])?;
            ensure!(read > 0, "the connection ended, or the answer has no end");
            length += read;
        }
        let answer = &self.answer[..length];
        ensure!(answer.starts_with(b"HTTP/1.1 200"), "answered {}", String::from_utf8_lossy(answer));
        Ok(())
    }
}
