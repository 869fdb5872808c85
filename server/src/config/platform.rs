//! Values that SageMaker and Vertex AI give a container in its environment: defaults below everything that a user sets.

use std::path::{Path, PathBuf};

/// Any of these is there when SageMaker starts the container.
const SAGEMAKER: [&str; 8] = [
    "SAGEMAKER_BIND_TO_PORT",
    "SAGEMAKER_SAFE_PORT_RANGE",
    "SAGEMAKER_MULTI_MODEL",
    "SAGEMAKER_BASE_DIR",
    "SAGEMAKER_REGION",
    "SAGEMAKER_CONTAINER_LOG_LEVEL",
    "SAGEMAKER_PROGRAM",
    "SAGEMAKER_SUBMIT_DIRECTORY",
];
/// Where SageMaker looks when it names no port.
const PORT: &str = "8080";

/// What a platform wants for a setting, and by which variable it says so.
pub(super) fn value(name: &str, variable: &impl Fn(&str) -> Option<String>) -> Option<(String, &'static str)> {
    let given = |name: &'static str| Some((variable(name).filter(|value| !value.is_empty())?, name));
    let sagemaker = || SAGEMAKER.into_iter().find_map(given).map(|(_, name)| name);
    match name {
        "http" => {
            let port = given("SAGEMAKER_BIND_TO_PORT").or_else(|| given("AIP_HTTP_PORT"));
            let (port, name) = port.or_else(|| sagemaker().map(|name| (PORT.to_owned(), name)))?;
            Some((format!("0.0.0.0:{port}"), name))
        }
        "repository" => {
            let base = given("SAGEMAKER_BASE_DIR").map_or_else(|| "/opt/ml".into(), |(base, _)| base);
            let folder = sagemaker().map(|name| (Path::new(&base).join("model"), name));
            let folder = folder.filter(|(folder, _)| folder.is_dir());
            let path = folder.map(|(folder, name)| (only_model(&folder).unwrap_or(folder), name));
            path.map(|(path, name)| (path.display().to_string(), name)).or_else(|| given("AIP_STORAGE_URI"))
        }
        "predict-route" => given("AIP_PREDICT_ROUTE"),
        "health-route" => given("AIP_HEALTH_ROUTE"),
        _ => None,
    }
}

/// The one model file that a folder holds, when it holds no folder of models.
fn only_model(folder: &Path) -> Option<PathBuf> {
    let mut files = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
    let is_model = |path: &PathBuf| path.is_file() && path.extension().is_some_and(|extension| extension == "onnx");
    let first = files.find(is_model)?;
    files.all(|path| !is_model(&path)).then_some(first)
}

#[cfg(test)]
mod tests {
    use super::value;

    fn of(name: &str, env: &[(&str, &str)]) -> Option<(String, &'static str)> {
        value(name, &|variable| env.iter().find(|(n, _)| *n == variable).map(|(_, v)| (*v).to_owned()))
    }

    #[test]
    fn each_platform_names_its_port() {
        assert_eq!(of("http", &[]), None);
        assert_eq!(of("http", &[("AIP_HTTP_PORT", "7080")]), Some(("0.0.0.0:7080".into(), "AIP_HTTP_PORT")));
        let port = ("SAGEMAKER_BIND_TO_PORT", "9090");
        assert_eq!(of("http", &[port]), Some(("0.0.0.0:9090".into(), "SAGEMAKER_BIND_TO_PORT")));
        assert_eq!(of("http", &[("SAGEMAKER_REGION", "x")]), Some(("0.0.0.0:8080".into(), "SAGEMAKER_REGION")));
    }

    #[test]
    fn sagemakers_folder_is_the_repository_when_it_is_there() {
        let base = tempfile::TempDir::new().expect("a folder");
        let env = [("SAGEMAKER_BASE_DIR", base.path().to_str().expect("UTF-8"))];
        assert_eq!(of("repository", &env), None);
        let folder = base.path().join("model");
        std::fs::create_dir(&folder).expect("a folder");
        let path = |path: &std::path::Path| Some((path.display().to_string(), "SAGEMAKER_BASE_DIR"));
        assert_eq!(of("repository", &env), path(&folder));
        std::fs::write(folder.join("a.onnx"), "").expect("a file");
        assert_eq!(of("repository", &env), path(&folder.join("a.onnx")));
        std::fs::write(folder.join("b.onnx"), "").expect("a file");
        assert_eq!(of("repository", &env), path(&folder));
    }
}
