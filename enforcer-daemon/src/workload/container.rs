//! Containers: whose cgroup a path is, in the layouts of docker, podman, containerd and CRI-O with either cgroup driver; and
//! what their engines say of them on disk.

use std::{
    collections::BTreeMap,
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};

use serde_json::Value;

use crate::{hash, manifest::ContainerSelector};

/// The fewest characters of an id that count as a prefix: with fewer a name could be one by accident.
const SHORTEST_PREFIX: usize = 8;
/// Engines' ids are SHA-256 digests in hex.
const ID_LEN: usize = 64;

/// The id of the container whose cgroup this is. `runc` and `crun` alone have ids of any form and any cgroup: these are known by
/// the hook.
#[must_use]
pub fn id_of(path: &str) -> Option<&str> {
    let (_, last) = path.rsplit_once('/')?;
    let name = last.strip_suffix(".scope").unwrap_or(last);
    // podman calls it a payload where the container shares the cgroup of its unit (`--cgroups=split`, as Quadlet has it).
    let id = ["docker-", "libpod-payload-", "libpod-", "cri-containerd-", "crio-", "nerdctl-"]
        .iter()
        .find_map(|engine| name.strip_prefix(engine))
        .unwrap_or(name);
    let is_id = id.len() == ID_LEN && id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    is_id.then_some(id)
}

/// What is known of a container.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: Option<String>,
    /// The image it runs.
    pub image: Option<String>,
    /// Its labels, and the annotations of its bundle.
    pub labels: BTreeMap<String, String>,
    /// Its root directory, as the engine's mount namespace has it.
    pub rootfs: Option<PathBuf>,
    /// What its runtime will mount from the host: where in the container, and what.
    pub volumes: Vec<(PathBuf, PathBuf)>,
    /// Whether its processes may change its network (`CAP_NET_ADMIN` in their bounding set).
    pub net_admin: bool,
}

impl Facts {
    /// Whether a selector means it.
    #[must_use]
    pub fn are_meant(&self, selector: &ContainerSelector) -> bool {
        match selector {
            ContainerSelector::NameOrId(text) => {
                self.name.as_deref() == Some(text)
                    || self.id == *text
                    || (text.len() >= SHORTEST_PREFIX && self.id.starts_with(text.as_str()))
            }
            ContainerSelector::Image(image) => self.image.as_deref().is_some_and(|own| is_image(own, image)),
            ContainerSelector::Label { key, value } => self.labels.get(key) == Some(value),
        }
    }

    /// What the engines on this host say of a container. `host` is where their directories are: `/`.
    #[must_use]
    pub fn of(id: &str, host: &Path) -> Self {
        let mut facts = Self { id: id.to_owned(), ..Self::default() };
        for bundle in bundles(id, host) {
            if facts.read_bundle(&bundle) {
                break;
            }
        }
        facts.read_podman(host);
        facts.read_docker(host);
        facts
    }

    /// Reads an OCI bundle (`config.json` of the runtime specification); false when there is none.
    pub fn read_bundle(&mut self, bundle: &Path) -> bool {
        let Some(config) = json(&bundle.join("config.json")) else { return false };
        if let Some(root) = text(&config, "/root/path") {
            self.rootfs = Some(bundle.join(root));
        }
        let bind = |mount: &Value| {
            let bound =
                mount["type"] == "bind" || mount["options"].as_array().is_some_and(|o| o.iter().any(|o| o == "rbind"));
            let (at, source) = (mount["destination"].as_str()?, mount["source"].as_str()?);
            bound.then(|| (PathBuf::from(at), bundle.join(source)))
        };
        self.volumes = config["mounts"].as_array().into_iter().flatten().filter_map(bind).collect();
        let bounding = config["process"]["capabilities"]["bounding"].as_array();
        self.net_admin = bounding.is_some_and(|all| all.iter().any(|one| one == "CAP_NET_ADMIN"));
        self.add_labels(&config["annotations"]);
        // The names that the engines' CRI parts give: containerd's, CRI-O's. What an engine's own files say stays.
        let first = |keys: &[&str]| keys.iter().find_map(|key| self.labels.get(*key)).cloned();
        let names = ["io.kubernetes.cri.container-name", "io.kubernetes.container.name", "nerdctl/name"];
        let images = ["io.kubernetes.cri.image-name", "io.kubernetes.cri-o.ImageName"];
        self.name = self.name.clone().or_else(|| first(&names));
        self.image = self.image.clone().or_else(|| first(&images));
        true
    }

    /// podman's and CRI-O's storage keeps a list of containers with their names.
    fn read_podman(&mut self, host: &Path) {
        let storage = host.join("var/lib/containers/storage");
        for list in subdirectories(&storage, "-containers")
            .into_iter()
            .flat_map(|dir| ["containers.json", "volatile-containers.json"].map(|file| dir.join(file)))
        {
            let Some(Value::Array(all)) = json(&list) else { continue };
            let Some(own) = all.iter().find(|c| c["id"].as_str() == Some(&self.id)) else { continue };
            if let Some(name) = text(own, "/names/0") {
                self.name = Some(name.to_owned());
            }
            // The metadata is JSON within a string.
            let metadata = own["metadata"].as_str().and_then(|text| serde_json::from_str::<Value>(text).ok());
            if let Some(image) = metadata.as_ref().and_then(|m| text(m, "/image-name")).filter(|name| !name.is_empty())
            {
                self.image = Some(image.to_owned());
            }
        }
    }

    fn read_docker(&mut self, host: &Path) {
        let Some(config) = json(&host.join("var/lib/docker/containers").join(&self.id).join("config.v2.json")) else {
            return;
        };
        if let Some(name) = text(&config, "/Name") {
            self.name = Some(name.trim_start_matches('/').to_owned());
        }
        if let Some(image) = text(&config, "/Config/Image") {
            self.image = Some(image.to_owned());
        }
        self.add_labels(&config["Config"]["Labels"]);
    }

    fn add_labels(&mut self, labels: &Value) {
        let Some(labels) = labels.as_object() else { return };
        self.labels.extend(labels.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))));
    }
}

/// Where a container's bundle may be: podman's and CRI-O's storage, containerd's tasks (docker's are of namespace `moby`).
fn bundles(id: &str, host: &Path) -> Vec<PathBuf> {
    let mut found = vec![];
    for storage in ["var/lib/containers/storage", "run/containers/storage"] {
        found.extend(
            subdirectories(&host.join(storage), "-containers").into_iter().map(|dir| dir.join(id).join("userdata")),
        );
    }
    let tasks = host.join("run/containerd/io.containerd.runtime.v2.task");
    found.extend(subdirectories(&tasks, "").into_iter().map(|namespace| namespace.join(id)));
    found
}

fn subdirectories(dir: &Path, suffix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return vec![] };
    entries.flatten().filter(|e| e.file_name().to_string_lossy().ends_with(suffix)).map(|e| e.path()).collect()
}

/// The longest file of an engine that is read, in bytes: docker's are some kilobytes, and podman's list of all containers a few
/// megabytes.
const LONGEST: u64 = 64 << 20;

/// Reads an engine's file; none that is no regular file or too long. Parts of a bundle are its author's.
fn json(path: &Path) -> Option<Value> {
    let (file, metadata) = hash::open_regular(path).ok()?;
    if metadata.len() > LONGEST {
        tracing::warn!("{} has {} bytes: it is not read", path.display(), metadata.len());
        return None;
    }
    let mut bytes = vec![];
    file.take(LONGEST).read_to_end(&mut bytes).ok()?;
    serde_json::from_slice(&bytes).ok()
}

fn text<'a>(value: &'a Value, pointer: &str) -> Option<&'a str> {
    value.pointer(pointer).and_then(Value::as_str)
}

/// Whether an image's full name is what was asked for: the registry may be left out, and the tag.
fn is_image(own: &str, wanted: &str) -> bool {
    let ends = |own: &str| own == wanted || own.strip_suffix(wanted).is_some_and(|rest| rest.ends_with('/'));
    let tag = own.rfind(':').filter(|at| !own[*at..].contains('/'));
    ends(own) || tag.is_some_and(|at| ends(&own[..at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn a_containers_cgroup_is_known_in_each_layout() {
        for path in [
            "/system.slice/docker-ID.scope",
            "/docker/ID",
            "/machine.slice/libpod-ID.scope",
            "/libpod_parent/libpod-ID",
            "/machine.slice/machine-libpod_pod_1.slice/libpod-ID.scope",
            "/system.slice/agent.service/libpod-payload-ID",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-ID.scope",
            "/kubepods/besteffort/pod1/ID",
            "/kubepods.slice/kubepods-pod1.slice/crio-ID.scope",
            "/kubepods/besteffort/pod1/crio-ID",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/docker-ID.scope",
            "/system.slice/nerdctl-ID.scope",
            "/default/ID",
        ] {
            assert_eq!(id_of(&path.replace("ID", ID)), Some(ID), "{path}");
        }
        for path in [
            "/machine.slice/libpod-conmon-ID.scope",
            "/kubepods.slice/kubepods-pod1.slice/crio-conmon-ID.scope",
            "/machine.slice/libpod-ID.scope/container",
            "/system.slice/docker.service",
            "/docker/0123",
            "/",
        ] {
            assert_eq!(id_of(&path.replace("ID", ID)), None, "{path}");
        }
    }

    fn host(files: &[(&str, &str)]) -> PathBuf {
        static NUMBER: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let host = std::env::temp_dir().join(format!("enforcer-container-{}-{number}", std::process::id()));
        for (path, content) in files {
            let path = host.join(path.replace("ID", ID));
            fs::create_dir_all(path.parent().expect("a directory")).expect("made");
            fs::write(path, content.replace("ID", ID)).expect("written");
        }
        host
    }

    fn selector(text: &str) -> ContainerSelector {
        text.parse().expect("a selector")
    }

    #[test]
    fn podmans_storage_has_the_name_and_the_root() {
        let host = host(&[
            (
                "var/lib/containers/storage/overlay-containers/containers.json",
                r#"[{"id":"other","names":["db"]},{"id":"ID","names":["web"],"metadata":"{\"image-name\":\"localhost/agent:1\"}"}]"#,
            ),
            (
                "var/lib/containers/storage/overlay-containers/ID/userdata/config.json",
                r#"{"root":{"path":"/merged"},"annotations":{"team":"red"},"mounts":[{"destination":"/proc","type":"proc","source":"proc"},
                    {"destination":"/data","type":"bind","source":"/srv/data","options":["rbind"]}]}"#,
            ),
        ]);
        let facts = Facts::of(ID, &host);
        assert_eq!(facts.rootfs.as_deref(), Some(Path::new("/merged")));
        assert_eq!(facts.volumes, [("/data".into(), "/srv/data".into())]);
        for meant in
            ["web", ID, &ID[..12], "image=localhost/agent:1", "image=agent", "image=localhost/agent", "label=team=red"]
        {
            assert!(facts.are_meant(&selector(meant)), "{meant}");
        }
        // A hook tells of the same bundle once more.
        let mut told = facts.clone();
        told.read_bundle(&host.join("var/lib/containers/storage/overlay-containers").join(ID).join("userdata"));
        assert_eq!(told, facts);
        for other in ["db", "we", &ID[..7], "image=gent", "image=agent:2", "label=team=blue"] {
            assert!(!facts.are_meant(&selector(other)), "{other}");
        }
        let _ = fs::remove_dir_all(host);
    }

    #[test]
    fn dockers_and_containerds_files() {
        let host = host(&[
            (
                "var/lib/docker/containers/ID/config.v2.json",
                r#"{"Name":"/web","Config":{"Image":"registry.example:5000/agent","Labels":{"team":"red"}}}"#,
            ),
            ("run/containerd/io.containerd.runtime.v2.task/moby/ID/config.json", r#"{"root":{"path":"rootfs"}}"#),
        ]);
        let facts = Facts::of(ID, &host);
        assert!(facts.rootfs.as_ref().is_some_and(|root| root.ends_with(format!("moby/{ID}/rootfs"))), "{facts:?}");
        for meant in ["web", "image=agent", "image=registry.example:5000/agent", "label=team=red"] {
            assert!(facts.are_meant(&selector(meant)), "{meant}");
        }
        let _ = fs::remove_dir_all(host);
    }

    #[test]
    fn what_is_no_plain_file_of_a_fitting_size_is_not_read() {
        let host = host(&[("plain/config.json", r#"{"root":{"path":"/merged"}}"#), ("giant/config.json", "{}")]);
        let giant = fs::OpenOptions::new().write(true).open(host.join("giant/config.json")).expect("opened");
        giant.set_len(100 << 30).expect("sparse");
        fs::create_dir(host.join("fifo")).expect("a directory");
        let fifo = host.join("fifo/config.json");
        rustix::fs::mknodat(rustix::fs::CWD, &fifo, rustix::fs::FileType::Fifo, rustix::fs::Mode::RUSR, 0)
            .expect("a FIFO");
        for (bundle, read) in [("plain", true), ("giant", false), ("fifo", false)] {
            assert_eq!(Facts::default().read_bundle(&host.join(bundle)), read, "{bundle}");
        }
        let _ = fs::remove_dir_all(host);
    }
}
