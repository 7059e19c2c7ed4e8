// SPDX-License-Identifier: GPL-2.0-only

//! The Debian package in a whole Debian that is not booted: installed, built by DKMS, purged.
//!
//! They need the package in `ASHMEM_DEB`, and in `ASHMEM_DEBIAN` what scripts/debian makes; `make
//! test` sets both.

use std::collections::BTreeSet;
use std::env;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use tempfile::TempDir;

fn path_from(variable: &str) -> PathBuf {
    match env::var_os(variable) {
        Some(path) => path.into(),
        None => panic!("{variable} is not set: run this through `make test`"),
    }
}

/// A line `NAME=VALUE` of the file that names the two kernels.
fn setting(name: &str) -> String {
    let text = fs::read_to_string(path_from("ASHMEM_DEBIAN").join("kernels")).expect("readable");
    let value = text.lines().find_map(|line| {
        let (key, value) = line.split_once('=')?;
        (key == name).then(|| value.to_owned())
    });
    value.unwrap_or_else(|| panic!("{name} is not in {text}"))
}

/// A copy of that Debian.
struct Debian {
    tree: PathBuf,
    _scratch: TempDir,
}

impl Debian {
    fn new() -> Self {
        let from = path_from("ASHMEM_DEBIAN");
        // Beside what it is made from: files of packages are linked, not copied.
        let scratch = tempfile::tempdir_in(from.parent().expect("the cache")).expect("a directory");
        let tree = scratch.path().join("tree");
        copy(&["-a"], &from.join("tree"), &tree);
        fs::remove_dir(tree.join("srv/packages")).expect("an empty directory");
        copy(&["-al"], &from.join("packages"), &tree.join("srv/packages"));
        fs::create_dir(tree.join("srv/given")).expect("a directory");
        copy(
            &["-L"],
            &path_from("ASHMEM_DEB"),
            &tree.join("srv/given/ashmem-dkms.deb"),
        );
        let debian = Self {
            tree,
            _scratch: scratch,
        };
        debian.run("apt-get -o Acquire::Languages=none update");
        debian
    }

    /// Runs a line of bash in it, which has to succeed. Gives what it printed.
    fn run(&self, line: &str) -> String {
        let output = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .arg(format!("--root={}", self.tree.display()))
            .args(["--wd=/root", "bash", "-euc", &format!("exec 2>&1\n{line}")])
            .env_clear()
            .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
            .env("DEBIAN_FRONTEND", "noninteractive")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .expect("unshare runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        println!("# {line}\n{text}");
        assert!(
            output.status.success(),
            "{line}: {}\n{text}{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        text
    }

    fn install(&self, packages: &str) -> String {
        self.run(&format!(
            "apt-get install --yes --no-install-recommends {packages}"
        ))
    }

    /// Every file but those that apt and dpkg keep about packages.
    fn files(&self) -> BTreeSet<String> {
        self.run(
            "find / -xdev \\( -path /proc -o -path /sys -o -path /dev -o -path /tmp -o -path /run \
             -o -path /var/lib/apt -o -path /var/lib/dpkg -o -path /var/cache/apt -o -path /var/log \
             -o -path /var/cache/ldconfig \\) -prune -o -print",
        )
        .lines()
        .map(str::to_owned)
        .collect()
    }
}

fn copy(how: &[&str], from: &Path, to: &Path) {
    let status = Command::new("cp")
        .args(how)
        .args([from, to])
        .status()
        .expect("cp runs");
    assert!(status.success(), "cp {} {}", from.display(), to.display());
}

#[test]
fn it_is_built_for_each_kernel_and_purging_it_leaves_nothing() {
    let (release, series, version) = (
        setting("NEWER"),
        setting("NEWER_SERIES"),
        setting("NEWER_VERSION"),
    );
    let debian = Debian::new();
    // What the package brings by its dependencies stays, so it is there before.
    let depends = debian.run("dpkg-deb --field /srv/given/ashmem-dkms.deb Depends");
    debian.run(&format!(
        "apt-get satisfy --yes --no-install-recommends '{}'",
        // An alternative other than the one that the test installs later.
        depends
            .trim()
            .replace(&format!("| linux-source-{series} "), "")
            .replace(&format!("| linux-source-{series},"), ",")
    ));
    debian.install(&format!("linux-headers-{release}"));
    debian.run("dkms generate_mok");
    assert!(
        !debian
            .tree
            .join(format!("usr/src/linux-source-{series}.tar.xz"))
            .exists(),
        "the other kernel's source is not to be there yet"
    );
    let before = debian.files();

    // A kernel whose source is missing: the reason and the package's name, and no failure.
    let said = debian.install("/srv/given/ashmem-dkms.deb");
    let wanted = format!("apt install linux-source-{series}={version}");
    assert!(said.contains(&wanted), "`{wanted}` is not in: {said}");
    assert!(!debian.run("dkms status").contains("installed"));

    // What was made for a kernel whose headers are gone.
    let old = debian.tree.join("var/cache/ashmem/7.2.0-amd64");
    fs::create_dir_all(old.join("rust")).expect("a directory");

    // The source comes, and nobody has to do more.
    debian.install(&format!("linux-source-{series}"));
    assert!(!old.exists(), "{} was to go", old.display());
    let status = debian.run("dkms status -m ashmem");
    assert!(
        status.contains(&format!("{release}, x86_64: installed")),
        "{status}"
    );
    // Whether modprobe finds it is for the system's test: there is no such kernel here.
    let module = debian.run(&format!(
        "ls /lib/modules/{release}/updates/dkms/ashmem.ko*"
    ));
    let module = module.trim();
    let field = |name: &str| {
        debian
            .run(&format!("modinfo -F {name} {module}"))
            .trim()
            .to_owned()
    };
    assert!(field("vermagic").starts_with(&format!("{release} ")));
    assert!(field("signer").contains("DKMS"), "signed by DKMS's own key");
    let package = debian.run("dpkg-query --show --showformat '${Version}' ashmem-dkms");
    assert_eq!(package, env!("CARGO_PKG_VERSION"));

    // The parameters are those of the module, each of them explained.
    let example = fs::read_to_string(debian.tree.join("etc/modprobe.d/ashmem.conf")).expect("text");
    let explained: BTreeSet<&str> = example
        .lines()
        .filter_map(|line| line.strip_prefix("#options ashmem ")?.split_once('='))
        .map(|(name, _)| name)
        .collect();
    let parameters = field("parm");
    let there: BTreeSet<&str> = parameters
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    assert_eq!(explained, there);
    debian.run("udevadm verify /usr/lib/udev/rules.d/60-ashmem.rules");
    debian.run("zcat /usr/share/man/man4/ashmem.4.gz | head -1");

    // Made once: without the source the same tree serves for another build.
    let tree = debian
        .tree
        .join("var/cache/ashmem")
        .join(&release)
        .join("rust/libkernel.rmeta");
    let made = fs::metadata(&tree)
        .expect("the metadata is kept")
        .mtime_nsec();
    debian.run(&format!(
        "dkms build --force -m ashmem -v {} -k {release}",
        env!("CARGO_PKG_VERSION")
    ));
    assert_eq!(fs::metadata(&tree).expect("kept").mtime_nsec(), made);

    debian.run("apt-get purge --yes ashmem-dkms");
    // The source was no part of the package.
    debian.run(&format!("apt-get purge --yes linux-source-{series}"));
    let after = debian.files();
    let left: Vec<_> = after.difference(&before).collect();
    let gone: Vec<_> = before.difference(&after).collect();
    assert!(
        left.is_empty() && gone.is_empty(),
        "left: {left:?}\ngone: {gone:?}"
    );
}

/// What lies below a directory, directories left out.
fn below(directory: &Path) -> BTreeSet<String> {
    let output = Command::new("find")
        .arg(directory)
        .args(["!", "-type", "d", "-printf", "%P\\n"])
        .output()
        .expect("find runs");
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn make_install_uses_metadata_that_is_there_and_uninstall_removes_all() {
    let tree = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let scratch = tempfile::tempdir().expect("a directory");
    let (copied, to) = (scratch.path().join("tree"), scratch.path().join("to"));
    fs::create_dir(&copied).expect("a directory");
    for part in ["Kbuild", "Makefile", "driver", "packaging", "scripts"] {
        copy(&["-a"], &tree.join(part), &copied.join(part));
    }
    let release = env::var("ASHMEM_RELEASE").expect("make test sets it");
    let make = |verb: &str| {
        let output = Command::new("make")
            .arg("-C")
            .arg(&copied)
            .args([verb, &format!("KERNELRELEASE={release}")])
            .arg(format!("KDIR={}", path_from("ASHMEM_KDIR").display()))
            .arg(format!("DESTDIR={}", to.display()))
            // Nothing is to be made: there is no source, and no place for metadata.
            .env("ASHMEM_SOURCES", "/nonexistent")
            .env("ASHMEM_TREES", "/nonexistent")
            .output()
            .expect("make runs");
        println!("{output:?}");
        assert!(output.status.success(), "make {verb}: {output:?}");
    };
    make("install");
    let module = format!("lib/modules/{release}/updates/ashmem.ko");
    let expected: BTreeSet<String> = [
        "etc/modprobe.d/ashmem.conf",
        &module,
        "usr/lib/modules-load.d/ashmem.conf",
        "usr/lib/udev/rules.d/60-ashmem.rules",
        "usr/local/share/man/man4/ashmem.4",
    ]
    .map(String::from)
    .into();
    assert_eq!(below(&to), expected);
    let output = Command::new("modinfo")
        .args(["-F", "vermagic"])
        .arg(to.join(&module))
        .output()
        .expect("modinfo runs");
    let vermagic = String::from_utf8_lossy(&output.stdout);
    assert!(vermagic.starts_with(&format!("{release} ")), "{vermagic}");
    make("uninstall");
    assert_eq!(below(&to), BTreeSet::new());
}
