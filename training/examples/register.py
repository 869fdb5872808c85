"""A classifier of tumours, registered in MLflow as one would do without onnxd."""

import sys

import mlflow
import numpy as np
import onnx
from mlflow.models import infer_signature
from skl2onnx import to_onnx
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

name, alias = sys.argv[1:]
recipes = {
    "champion": make_pipeline(StandardScaler(), LogisticRegression()),
    "challenger": GradientBoostingClassifier(random_state=0),
}

data = load_breast_cancer()
x, y = data.data.astype(np.float32), data.target
x_train, x_test, y_train, y_test = train_test_split(x, y, random_state=0, stratify=y)
model = recipes[alias].fit(x_train, y_train)
graph = to_onnx(model, x_train[:1], options={"zipmap": False}, target_opset=17)
columns = ",".join(column.replace(" ", "_") for column in data.feature_names)
onnx.helper.set_model_props(graph, {"onnxd.features": columns})

mlflow.set_experiment(name)
with mlflow.start_run():
    mlflow.log_metric("accuracy", model.score(x_test, y_test))
    logged = mlflow.onnx.log_model(
        graph,
        name=name,
        signature=infer_signature({"X": x_test}, {"label": y_test, "probabilities": model.predict_proba(x_test)}),
        registered_model_name=name,
        save_as_external_data=False,
    )
mlflow.MlflowClient().set_registered_model_alias(name, alias, logged.registered_model_version)
print(f"{name} version {logged.registered_model_version}, {alias}: accuracy {model.score(x_test, y_test):.3f}")
