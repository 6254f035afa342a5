use super::*;
use proptest::prelude::*;

const GOOD: &str = r#"apiVersion = "verge/v1"
[node]
id = "a1"
car = "car-a"
role = "obu"
run_dir = "run"
state_dir = "state"
record = true
[host]
trusted_keys = ["dev.pub.pem"]
[capacity]
cores = 4
memory = "1Gi"
[[bus]]
name = "can0"
kind = "multicast"
group = "239.74.163.2"
port = 43113
dbc = "car.dbc"
mapping = "car.json"
tx = [{ app = "oem/wiper", id = 291, rate_per_s = 10 }]
[[bus]]
name = "can1"
kind = "socketcan"
interface = "vcan0"
[[camera]]
id = "front"
source = "file:clip.mjpeg"
fps = 25
[effects]
server = "127.0.0.1:7001"
[car]
listen = ["tls/127.0.0.1:7447"]
ca = "ca.pem"
cert = "a1.pem"
key = "a1.key.pem"
[outside]
zone = "a10"
connect = ["tls/127.0.0.1:7448"]
ca = "zone.pem"
cert = "a1.zone.pem"
key = "a1.zone.key.pem"
[policy]
answer_calls = ["road-sample"]
[[policy.tenants]]
tenant = "oem"
best_class = "critical"
allow = { signals = ["Vehicle.**"], cameras = [{ id = "front", fps = 10 }], tasks = ["lane"] }
[[policy.exports]]
id = "vision"
tasks = ["lane"]
"#;

#[test]
fn a_good_file_is_read_whole() {
    let file = load(GOOD, Path::new("node.toml")).unwrap();
    assert_eq!(file.node.id.as_str(), "a1");
    assert_eq!(file.capacity.cores, 4);
    assert_eq!(file.bus[1].kind, BusKind::SocketCan { interface: "vcan0".into() });
    assert_eq!(file.bus[0].load_cap, 50);
    assert!(file.camera[0].repeat);
    assert_eq!(file.policy.exports[0].id, "vision");
    assert_eq!(file.outside.unwrap().zone.as_str(), "a10");
}

#[test]
fn host_reads_the_same_file_and_its_parts_read_here() {
    use obu_host::config::Config;
    use policies::host::Face;
    let host = Config::parse(GOOD, Path::new("/etc/verge/node.toml")).unwrap();
    let whole = load(&host.section_for(&Face::Node), Path::new("node.toml")).unwrap();
    assert_eq!(whole.policy, load(GOOD, Path::new("x")).unwrap().policy);
    for face in [Face::Bus, Face::Camera, Face::Link] {
        let part = load(&host.section_for(&face), Path::new("node.toml")).unwrap();
        assert_eq!(part.bus.is_empty(), face != Face::Bus);
        assert_eq!(part.camera.is_empty(), face != Face::Camera);
    }
}

/// One mistake per row: what is replaced, by what, where it is found, what the reason and the help name.
#[test]
#[rustfmt::skip]
fn mistake_table() {
    check("verge/v1",        "verge/v2",      "1:1",  "this release reads \"verge/v1\"", "write apiVersion = \"verge/v1\"");
    check("[node]",          "[nod]",         "2:2",  "unknown field `nod`",        "did you mean `node`?");
    check("id = \"a1\"",     "idd = \"a1\"",  "3:1",  "unknown field `idd`",        "did you mean `id`?");
    check("\"a1\"",          "\"A1\"",        "3:6",  "A1",                         "");
    check("role = \"obu\"",  "role = \"oub\"", "5:8", "unknown variant `oub`",      "did you mean `obu`?");
    check("record = true",   "record = 1",    "8:10", "expected a boolean",         "write true or false");
    check("cores = 4",       "cores = \"4\"",  "12:9", "expected u16",              "write a whole number");
    check("trusted_keys = [\"dev.pub.pem\"]", "trusted_keys = \"dev.pub.pem\"", "10:16", "expected a sequence", "write a list");
    check("id = \"a1\"",     "id = 1",        "3:6",  "expected a string",          "write it in quotes");
    check("cores = 4",       "cores = 0",     "12:1", "between 1 and 1024",         "leave it out");
    check("\"1Gi\"",         "\"1Gb\"",       "13:10", "\"1Gb\" is not an amount", "write 96Mi, 1.5Gi");
    check("kind = \"multicast\"", "kind = \"canopen\"", "16:8", "unknown variant `canopen`", "one of: multicast, socketcan");
    check("port = 43113",    "port = 431130", "18:8", "431130 is not a port",       "write 1 to 65535");
    check("port = 43113",    "port = 0",      "18:8", "0 is not a port",            "write 1 to 65535");
    check("239.74.163.2",    "10.0.0.1",      "14:1", "10.0.0.1 is not a multicast address", "write 224.0.0.0");
    check("port = 43113",    "",              "14:1", "kind multicast needs group and port", "write group");
    check("interface = ",    "interfce = ",   "25:1", "unknown field `interfce`",   "did you mean `interface`?");
    check("oem/wiper",       "wiper",         "21:1", "\"wiper\" is not an app",    "write tenant/app");
    check("file:clip.mjpeg", "clip.mjpeg",    "28:1", "\"clip.mjpeg\", which names no file", "file:PATH");
    check("fps = 25",        "fps = 0",       "29:1", "between 1 and 240",          "write 10");
    check("fps = 25",        "fsp = 25",      "29:1", "unknown field `fsp`",        "did you mean `fps`?");
    check("127.0.0.1:7001",  "127.0.0.1",     "31:10", "socket address",            "");
    check("Vehicle.**",      "**",            "48:21", "not a VSS path",             "");
    check("best_class",      "bestclass",     "47:1", "unknown field `bestclass`",  "did you mean `best_class`?");
    check("\"critical\"",    "\"critcal\"",   "47:14", "unknown variant `critcal`", "did you mean `critical`?");
    check("zone = \"a10\"",  "",              "37:1", "missing field `zone`",       "write zone = ");
    check("cores = 4",       "cores = 4\ncores = 5", "13:1", "duplicate key",       "");
    check("[capacity]",      "[capacity",     "11:",  "",                           "");
    check("car = \"car-a\"", "car = \"car-a", "4:",   "",                           "");
}

/// What the faces would refuse once they run.
#[test]
#[rustfmt::skip]
fn faces_table() {
    check("id = 291",        "id = 0x800",    "21:1", "id 0x800 has more than 11 bits", "extended = true");
    check("id = 291",        "id = 0x20000000, extended = true", "21:1", "more than 29 bits", "0x1FFFFFFF");
    check("\"can1\"",        "\"can0\"",      "23:1", "bus can0 stands here twice",     "name each once");
    check("[effects]",       "[[camera]]\nid = \"front\"\nsource = \"file:a\"\n[effects]", "31:1", "camera front stands here twice", "once");
    check("[[policy.exports]]", "[[policy.tenants]]\ntenant = \"oem\"\n[[policy.exports]]", "50:1", "tenants oem stands here twice", "once");
    check("tls/127.0.0.1:7447", "127.0.0.1:7447", "33:1", "names no protocol",          "write tls/ADDRESS:PORT");
    check("tls/127.0.0.1:7447", "tcp/127.0.0.1:7447", "33:1", "does not fit the protection", "insecure = true");
    check("tls/127.0.0.1:7447", "tls/127.0.0.1:7447#x=1", "33:1", "carries options",    "write tls/");
    check("tls/127.0.0.1:7448", "udp/127.0.0.1:7448", "39:1", "does not fit the protection", "write tls/");
    check("ca = \"ca.pem\"\n", "",            "32:2", "[car] has no ca",              "verge pki");
    check("key = \"a1.zone.key.pem\"\n", "",  "37:2", "[outside] has no key",         "verge pki");
    check("connect = [\"tls/127.0.0.1:7448\"]\n", "", "37:2", "neither listens nor connects", "leave [outside] out");
}

/// What host refuses is refused here with the same words at the same place.
// tests: P4-01
#[test]
#[rustfmt::skip]
fn host_table() {
    same("[capacity]",      "uid_base = 999\n[capacity]",        "11:1", "uid_base is 999",     "200000");
    same("[capacity]",      "uid_base = 4294967000\n[capacity]", "11:1", "beyond the highest",  "200000");
    same("[capacity]",      "uid_count = 511\n[capacity]",       "11:1", "at least 512",        "65536");
    same("[capacity]",      "cgroup = \"a/../b\"\n[capacity]",   "11:1", "`..` would lead out", "without `..`");
    same("[capacity]",      "[control]\nmode = \"0888\"\n[capacity]", "12:1", "no octal mode",   "write mode = \"0660\"");
    same("[capacity]",      "[control]\nmode = \"01777\"\n[capacity]", "12:1", "no octal mode",  "write mode = \"0660\"");
    same("[capacity]",      "[control]\nmode = \"+660\"\n[capacity]", "12:1", "no octal mode",   "write mode = \"0660\"");
    same("record = true",   "time_scale = 0",                   "8:1",  "between 1 and 1000",  "write 1");
    same("verge/v1",        "verge/v2",                         "1:1",  "this release reads",  "write apiVersion");
}

#[track_caller]
fn same(old: &str, new: &str, place: &str, why: &str, help: &str) {
    use obu_host::config::Config;
    use obu_host::fault::Explain as _;
    check(old, new, place, why, help);
    let (text, path) = (GOOD.replacen(old, new, 1), Path::new("node.toml"));
    let ours = load(&text, path).expect_err(new);
    let hosts = Config::parse(&text, path).expect_err(new);
    assert_eq!(hosts.to_string(), format!("node.toml:{}:{}: {}", ours.line, ours.column, ours.why));
    assert_eq!(hosts.fix(), ours.fix());
}

#[test]
fn a_mistake_in_the_second_of_a_kind_is_found_there() {
    let second = "[[camera]]\nid = \"rear\"\nsource = \"file:clip.mjpeg\"\nfps = 0\n[effects]";
    check("[effects]", second, "33:1", "fps of camera rear is 0", "write 10");
}

#[track_caller]
fn check(old: &str, new: &str, place: &str, why: &str, help: &str) {
    assert!(GOOD.contains(old), "{old}");
    let error = load(&GOOD.replacen(old, new, 1), Path::new("node.toml")).expect_err(new);
    let text = error.to_string();
    assert!(text.starts_with(&format!("node.toml:{place}")), "{new}: {text}, not at {place}");
    assert!(text.contains(why), "{new}: {text}");
    assert!(error.fix().unwrap_or_default().contains(help), "{new}: {:?}", error.fix());
}

#[test]
fn files_that_are_no_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("node.toml");
    assert!(load_file(&path).unwrap_err().to_string().contains("No such file"));
    for (bytes, named) in [
        (vec![0xff; 10], "not valid UTF-8"),
        (vec![b'#'; 200_000], "longer than"),
        (Vec::new(), "missing field `node`"),
        (b"[node]\nid='a'\ncar='c'\nrun_dir='r'\nstate_dir='s'\n".to_vec(), "apiVersion is missing"),
    ] {
        std::fs::write(&path, bytes).unwrap();
        let error = load_file(&path).unwrap_err().to_string();
        assert!(error.contains(named), "{error}");
    }
    assert!(load_file(dir.path()).is_err());
}

proptest! {
    #[test]
    fn a_damaged_file_is_an_error_or_a_file(place: prop::sample::Index, byte in "\\PC") {
        let mut text = GOOD.to_owned();
        let at = place.index(text.len());
        text.replace_range(at..at + 1, &byte);
        let _ = load(&text, Path::new("node.toml")).map_err(|error| error.to_string());
    }
}
