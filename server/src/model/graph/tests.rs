use super::super::onnx::{Attribute, Function, Shape, StringEntry, TensorType, TypeProto, ValueInfo};
use super::*;

fn node(op: &str, inputs: &[&str], output: &str, attribute: Vec<Attribute>) -> Node {
    let input = inputs.iter().map(|i| (*i).to_owned()).collect();
    Node { op_type: op.into(), name: output.into(), input, output: vec![output.into()], attribute, ..Node::default() }
}

fn attribute(name: &str, change: impl FnOnce(&mut Attribute)) -> Vec<Attribute> {
    let mut attribute = Attribute { name: name.into(), ..Attribute::default() };
    change(&mut attribute);
    vec![attribute]
}

fn input(name: &str, dtype: i32) -> ValueInfo {
    let tensor = Some(TensorType { elem_type: dtype, shape: Some(Shape::default()) });
    ValueInfo { name: name.into(), r#type: Some(TypeProto { tensor, ..TypeProto::default() }) }
}

fn integers(name: &str, values: &[i64]) -> TensorProto {
    TensorProto { name: name.into(), data_type: INT64, int64_data: values.to_vec(), ..TensorProto::default() }
}

/// A graph with the inputs `i` (int64), `j` (int32), `k` (int16), `u` (uint64) and `f` (float32), and these nodes.
fn graph(node: Vec<Node>) -> Graph {
    let initializer = vec![integers("three", &[3, 5]), integers("minus", &[7, -1]), integers("none", &[0])];
    let input = [("i", INT64), ("j", INT32), ("k", 5), ("u", 13), ("f", FLOAT)];
    let input = input.iter().map(|(name, dtype)| self::input(name, *dtype)).collect();
    Graph { node, initializer, input, ..Graph::default() }
}

fn check(graph: Graph, functions: Vec<Function>) -> Result<Lint, String> {
    lint(&Model { graph: Some(graph), functions, ..Model::default() }.encode_to_vec(), &[("w.bin", 8)])
}

fn div(a: &str, b: &str) -> Node {
    node("Div", &[a, b], "y", vec![])
}

#[test]
fn divisions_that_are_proved_harmless_pass() {
    let to_float = || attribute("to", |a| a.i = FLOAT.into());
    let one = || attribute("value_int", |a| a.i = 2);
    let value = |t: TensorProto| attribute("value", |a| a.t = Some(t));
    for (name, nodes) in [
        ("floats", vec![div("f", "f")]),
        ("an integer by a constant", vec![div("i", "three")]),
        ("a constant in another shape", vec![node("Unsqueeze", &["three"], "t", vec![]), div("i", "t")]),
        ("a Constant node", vec![node("Constant", &[], "c", one()), div("i", "c")]),
        ("cast before", vec![node("Cast", &["i"], "g", to_float()), div("g", "f")]),
        ("floats through other operators", vec![node("Relu", &["f"], "r", vec![]), div("f", "r")]),
        ("by a constant 0, which is an error", vec![div("i", "none")]),
        ("by a shape", vec![node("Shape", &["f"], "s", vec![]), div("i", "s")]),
        (
            "a part of a shape",
            vec![
                node("Shape", &["f"], "s", vec![]),
                node("Gather", &["s", "none"], "n", vec![]),
                node("Cast", &["n"], "c", attribute("to", |a| a.i = INT64.into())),
                node("Concat", &["c", "three"], "b", vec![]),
                div("b", "i"),
            ],
        ),
        (
            "the scores of a classifier",
            vec![
                Node {
                    domain: ML.into(),
                    output: vec!["label".into(), "scores".into()],
                    ..node("LinearClassifier", &["f"], "", vec![])
                },
                div("scores", "scores"),
            ],
        ),
        (
            "a chosen constant of a shape",
            vec![
                node("Shape", &["f"], "s", vec![]),
                node("ConstantOfShape", &["s"], "z", vec![]),
                node("Where", &["b", "unknown", "z"], "w", vec![]),
                div("w", "w"),
            ],
        ),
        (
            "by a constant of a shape",
            vec![node("ConstantOfShape", &["i"], "c", value(integers("", &[2]))), div("i", "c")],
        ),
        ("small integers", vec![div("k", "k")]),
        ("unsigned integers", vec![div("u", "u"), node("Mod", &["u", "u"], "m", vec![])]),
        ("the rest of floats", vec![node("Mod", &["i", "i"], "m", attribute("fmod", |a| a.i = 1))]),
    ] {
        assert!(check(graph(nodes), vec![]).is_ok(), "{name}");
    }
}

#[test]
fn divisions_that_could_kill_the_process_are_refused() {
    let value = |t: TensorProto| attribute("value", |a| a.t = Some(t));
    let branch = || attribute("then_branch", |a| a.g = Some(Graph { node: vec![div("i", "j")], ..Graph::default() }));
    for (name, nodes) in [
        ("by a request's value", vec![div("i", "i")]),
        ("by a constant -1", vec![div("i", "minus")]),
        ("under the domain's other name", vec![Node { domain: "ai.onnx".into(), ..div("i", "minus") }]),
        ("the rest as well", vec![Node { op_type: "Mod".into(), ..div("j", "j") }]),
        ("by a negated constant", vec![node("Neg", &["three"], "n", vec![]), div("i", "n")]),
        ("by a Constant node", vec![node("Constant", &[], "c", value(integers("", &[-1]))), div("i", "c")]),
        (
            "by a constant -1 of a shape",
            vec![node("ConstantOfShape", &["i"], "c", value(integers("", &[-1]))), div("i", "c")],
        ),
        (
            "the label of a classifier",
            vec![
                Node {
                    domain: ML.into(),
                    output: vec!["label".into(), "scores".into()],
                    ..node("LinearClassifier", &["f"], "", vec![])
                },
                div("label", "label"),
            ],
        ),
        ("by a list", vec![node("Constant", &[], "c", attribute("value_ints", |a| a.i = 1)), div("i", "c")]),
        (
            "a shape that was cast to fewer bits",
            vec![
                node("Shape", &["f"], "s", vec![]),
                node("Cast", &["s"], "c", attribute("to", |a| a.i = INT32.into())),
                div("c", "j"),
            ],
        ),
        ("counts with others", vec![node("Concat", &["three", "i"], "c", vec![]), div("c", "i")]),
        ("of unknown types", vec![node("Unknown", &["f"], "u", vec![]), div("u", "u")]),
        ("of what a branch gives", vec![node("If", &["f"], "u", vec![]), div("u", "u")]),
        ("in a branch", vec![node("If", &["f"], "u", branch())]),
        (
            "a second output",
            vec![Node { output: vec!["v".into(), "k".into()], ..node("TopK", &["f"], "", vec![]) }, div("k", "k")],
        ),
    ] {
        let reason = check(graph(nodes), vec![]).expect_err(name);
        assert!(reason.contains("could kill the process"), "{name}: {reason}");
    }
    let function = Function { node: vec![div("a", "b")], ..Function::default() };
    let reason = check(graph(vec![div("f", "f")]), vec![function]).expect_err("in a function");
    assert!(reason.contains("could kill the process"), "{reason}");
    // The constant is the call's, whatever stands in its place.
    for refers in [false, true] {
        let three = attribute("value_int", |a| {
            a.i = 3;
            a.ref_attr_name = if refers { "by".into() } else { String::new() };
        });
        let node = vec![node("Constant", &[], "b", three), div("a", "b")];
        let checked = check(graph(vec![div("f", "f")]), vec![Function { node, ..Function::default() }]);
        assert_eq!(checked.is_err(), refers, "{checked:?}");
    }
}

/// ONNX Runtime looks for them in all these places.
#[test]
fn weights_in_a_file_are_looked_at_wherever_they_are() {
    let far = || TensorProto {
        dims: vec![9],
        data_location: 1,
        external_data: vec![StringEntry { key: "location".into(), value: "w.bin".into() }],
        ..integers("far", &[])
    };
    let far_constant = || node("Constant", &[], "c", attribute("value", |a| a.t = Some(far())));
    let inner = Graph { initializer: vec![far()], ..Graph::default() };
    let sparse = || SparseTensor { values: None, indices: Some(far()) };
    let ok = || vec![node("Relu", &["f"], "y", vec![])];
    for (name, graph) in [
        ("an initializer", Graph { initializer: vec![far()], ..graph(ok()) }),
        ("a Constant node", graph(vec![far_constant()])),
        ("a branch", graph(vec![node("If", &["f"], "u", attribute("then_branch", |a| a.g = Some(inner)))])),
        ("a sparse initializer", Graph { sparse_initializer: vec![sparse()], ..graph(ok()) }),
        (
            "a sparse constant",
            graph(vec![node("Constant", &[], "c", attribute("", |a| a.sparse_tensor = Some(sparse())))]),
        ),
        ("a list", graph(vec![node("Unknown", &[], "c", attribute("", |a| a.tensors = vec![far()]))])),
    ] {
        let reason = check(graph, vec![]).expect_err(name);
        assert!(reason.contains("beyond the end") || reason.contains("sparse"), "{name}: {reason}");
    }
    let one = |t: TensorProto| TensorProto { dims: vec![1], ..t };
    let good = Graph { initializer: vec![one(far())], ..graph(ok()) };
    assert_eq!(check(good, vec![]).expect("inside").warnings, Vec::<String>::new());
    let warnings = check(graph(ok()), vec![]).expect("nothing outside").warnings;
    assert!(warnings[0].contains("no weights lie in w.bin"), "{warnings:?}");
    // Nothing is read of the file, so that nothing is known of the divisor.
    let divides = Graph { initializer: vec![one(far())], ..graph(vec![div("i", "far")]) };
    assert!(check(divides, vec![]).expect_err("unknown").contains("could kill the process"));
}

#[test]
fn what_a_request_can_make_slow_is_not_steady() {
    let steady = |op: &str| check(graph(vec![node(op, &["f"], "y", vec![])]), vec![]).expect("accepted").steady;
    assert!(steady("Relu"));
    assert!(!steady("Loop"));
    assert!(!steady("Range"));
    assert!(!steady("HannWindow"));
    let domain = |domain: &str| {
        let node = Node { domain: domain.into(), ..node("Relu", &["f"], "y", vec![]) };
        check(graph(vec![node]), vec![]).expect("accepted").steady
    };
    assert!(domain(ML) && domain("ai.onnx") && !domain("com.microsoft"));
}
