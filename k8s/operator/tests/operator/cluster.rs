//! One real API server for all tests: etcd, kube-apiserver, and the controllers that replace pods and count disruptions. No
//! kubelet: tests say themselves how pods are.
//!
//! The operator comes in with a token of the service account that `rbac.yaml` names, and has exactly the rights in that file.

use std::ffi::OsString;
use std::io::Write;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{DynamicObject, Patch, PatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Api, Client, Config, CustomResourceExt};
use remediation_operator::policy::RemediationPolicy;
use serde_json::json;
use tokio::runtime::Runtime;

pub const USER: &str = "system:serviceaccount:ml:remediation-operator";
const PATIENCE: Duration = Duration::from_secs(120);

pub struct Cluster {
    pub runtime: Runtime,
    pub admin: Client,
    /// With the operator's token, and with the administrator's.
    pub kubeconfig: PathBuf,
    pub url: String,
    _guards: Vec<Child>,
}

/// The cluster, unless this machine has none: then the tests say so and are skipped.
pub fn cluster() -> Option<&'static Cluster> {
    static SHARED: OnceLock<Option<Cluster>> = OnceLock::new();
    SHARED.get_or_init(|| assets().map(|assets| start(&assets))).as_ref()
}

fn assets() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os("KUBE_ASSETS") {
        let named = PathBuf::from(named);
        assert!(named.join("kube-apiserver").is_file(), "KUBE_ASSETS is {}, without kube-apiserver", named.display());
        return Some(named);
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).expect("the repository");
    let built = root.join("target/kubernetes/bin");
    if built.is_dir() {
        return Some(built);
    }
    say(&format!(
        "the operator was NOT tested against an API server: {} does not exist, and KUBE_ASSETS names no folder with kube-apiserver and kube-controller-manager",
        built.display()
    ));
    None
}

/// Past the test harness, which keeps what tests that pass have printed to itself.
pub fn say(skipped: &str) {
    let _ = writeln!(std::io::stderr(), "\n*** SKIPPED: {skipped} ***\n");
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Runs a program that ends when this process does, however that ends.
fn guarded(log: &Path, program: impl Into<OsString>, arguments: &[String]) -> Child {
    let log = std::fs::File::create(log).expect("a log");
    Command::new("sh")
        .args(["-c", r#""$@" </dev/null & p=$!; cat >/dev/null; kill -9 $p"#, "sh"])
        .arg(program.into())
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(log.try_clone().expect("a log"))
        .stderr(log)
        .spawn()
        .expect("sh starts")
}

fn kubeconfig(path: &Path, url: &str, token: &str) {
    let config = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {"server": url, "insecure-skip-tls-verify": true}}],
        "users": [{"name": "test", "user": {"token": token}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
    });
    std::fs::write(path, config.to_string()).expect("a kubeconfig");
}

fn start(assets: &Path) -> Cluster {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("cluster-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    let at = |name: &str| folder.join(name);
    let text = |path: PathBuf| path.to_string_lossy().into_owned();
    let [etcd, peers, secure] = [free_port(), free_port(), free_port()];
    let mut guards = Vec::new();
    let cleaning = Command::new("sh")
        .args(["-c", r#"cat >/dev/null; sleep 1; rm -rf "$1""#, "sh"])
        .arg(&folder)
        .stdin(Stdio::piped())
        .spawn();
    guards.push(cleaning.expect("sh starts"));
    let arguments = [
        format!("--data-dir={}", text(at("etcd"))),
        format!("--listen-client-urls=http://127.0.0.1:{etcd}"),
        format!("--advertise-client-urls=http://127.0.0.1:{etcd}"),
        format!("--listen-peer-urls=http://127.0.0.1:{peers}"),
        format!("--initial-advertise-peer-urls=http://127.0.0.1:{peers}"),
        format!("--initial-cluster=default=http://127.0.0.1:{peers}"),
    ];
    guards.push(guarded(&at("etcd.log"), "etcd", &arguments));
    let key =
        Command::new("openssl").args(["genrsa", "-out"]).arg(at("key.pem")).arg("2048").output().expect("openssl");
    assert!(key.status.success(), "openssl makes no key");
    let tokens = format!("admin,admin,1,system:masters\noperator,{USER},2,\n");
    std::fs::write(at("tokens.csv"), tokens).expect("tokens");
    let arguments = [
        format!("--etcd-servers=http://127.0.0.1:{etcd}"),
        format!("--secure-port={secure}"),
        "--bind-address=127.0.0.1".into(),
        "--insecure-port=0".into(),
        format!("--cert-dir={}", text(at("certificates"))),
        "--authorization-mode=RBAC".into(),
        format!("--token-auth-file={}", text(at("tokens.csv"))),
        "--service-account-issuer=https://kubernetes.default.svc".into(),
        format!("--service-account-key-file={}", text(at("key.pem"))),
        format!("--service-account-signing-key-file={}", text(at("key.pem"))),
        "--service-cluster-ip-range=10.0.0.0/24".into(),
        "--disable-admission-plugins=ServiceAccount".into(),
    ];
    guards.push(guarded(&at("apiserver.log"), assets.join("kube-apiserver"), &arguments));
    let url = format!("https://127.0.0.1:{secure}");
    kubeconfig(&at("admin.json"), &url, "admin");
    kubeconfig(&at("operator.json"), &url, "operator");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let admin = runtime.block_on(async {
        let read = Kubeconfig::read_from(at("admin.json")).expect("a kubeconfig");
        let config = Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await.expect("a config");
        let client = Client::try_from(config).expect("a client");
        let begin = Instant::now();
        while let Err(error) = ready(&client).await {
            assert!(begin.elapsed() < PATIENCE, "{error}; see {}", at("apiserver.log").display());
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        client
    });
    let arguments = [
        format!("--kubeconfig={}", text(at("admin.json"))),
        "--controllers=deployment,replicaset,disruption".into(),
        "--leader-elect=false".into(),
        "--port=0".into(),
        "--secure-port=0".into(),
        "--concurrent-deployment-syncs=2".into(),
    ];
    guards.push(guarded(&at("controllers.log"), assets.join("kube-controller-manager"), &arguments));
    runtime.block_on(install(&admin));
    Cluster { runtime, admin, kubeconfig: at("operator.json"), url, _guards: guards }
}

async fn ready(client: &Client) -> kube::Result<()> {
    let request = http_get("/readyz");
    client.request_text(request).await?;
    // RBAC's own roles are made after that.
    let request = http_get("/apis/rbac.authorization.k8s.io/v1/clusterroles/system:discovery");
    client.request_text(request).await.map(drop)
}

fn http_get(path: &str) -> axum::http::Request<Vec<u8>> {
    axum::http::Request::get(path).body(Vec::new()).expect("a request")
}

/// What a user applies: the committed files.
async fn install(admin: &Client) {
    apply(admin, json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "ml"}})).await;
    for document in documents("crd.yaml").into_iter().chain(documents("rbac.yaml")) {
        apply(admin, document).await;
    }
    let crds: Api<CustomResourceDefinition> = Api::all(admin.clone());
    let name = RemediationPolicy::crd_name();
    let begin = Instant::now();
    loop {
        let crd = crds.get(name).await.expect("the definition");
        let conditions = crd.status.and_then(|status| status.conditions).unwrap_or_default();
        assert!(!conditions.iter().any(|c| c.type_ == "NonStructuralSchema" && c.status == "True"), "{conditions:?}");
        if conditions.iter().any(|c| c.type_ == "Established" && c.status == "True") {
            break;
        }
        assert!(begin.elapsed() < PATIENCE, "the definition is not established: {conditions:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Established is told a moment before it is served.
    let policies: Api<RemediationPolicy> = Api::namespaced(admin.clone(), "ml");
    while let Err(error) = policies.list(&kube::api::ListParams::default()).await {
        assert!(begin.elapsed() < PATIENCE, "{error}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The documents of a file in `k8s/operator`.
pub fn documents(name: &str) -> Vec<serde_json::Value> {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(name)).expect("the file");
    serde_saphyr::from_multiple(&text).expect("YAML")
}

/// Server-side apply of anything.
pub async fn apply(client: &Client, object: serde_json::Value) {
    let text = |pointer: &str| object.pointer(pointer).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
    let (version, kind) = (text("/apiVersion"), text("/kind"));
    let (group, version) = version.rsplit_once('/').unwrap_or(("", &version));
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &kind));
    let namespace = text("/metadata/namespace");
    let api: Api<DynamicObject> = if namespace.is_empty() {
        Api::all_with(client.clone(), &resource)
    } else {
        Api::namespaced_with(client.clone(), &namespace, &resource)
    };
    let params = PatchParams::apply("tests").force();
    let applied = api.patch(&text("/metadata/name"), &params, &Patch::Apply(&object)).await;
    applied.unwrap_or_else(|error| panic!("{kind} {}: {error}", text("/metadata/name")));
}
