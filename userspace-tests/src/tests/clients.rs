// SPDX-License-Identifier: GPL-2.0-only

//! Programs that were written for ashmem: what each of them calls, in its
//! order, and what it expects of every answer.
//!
//! The ioctls are raw here, as those programs make them.

use std::ffi::CStr;
use std::fs;
use std::fs::File;
use std::io::Read;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::path::PathBuf;
use std::ptr::NonNull;
use std::sync::atomic::Ordering;

use anyhow::Context;
use anyhow::ensure;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::fcntl::open;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use nix::sys::mman::MapFlags;
use nix::sys::mman::MmapAdvise;
use nix::sys::mman::ProtFlags;
use nix::sys::mman::madvise;
use nix::sys::mman::mmap_anonymous;
use nix::sys::mman::mprotect;
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::sys::stat::SFlag;
use nix::sys::stat::fstat;
use nix::sys::stat::mknod;
use nix::sys::stat::stat;

use crate::abi;
use crate::harness::tests;
use crate::region::Mapping;
use crate::region::NODE;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::memory::Edge;
use crate::tests::process::dies_of;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;

tests! {
    libcutils_finds_the_node_and_tells_its_descriptors
        => "state.fstat" "name.end-of-page" "size.unrounded" "pin.order-unmapped",
    java_memory_file => "pin.len-zero" "pin.was-purged" "purge.all" "private.hole-write",
    java_memory_int_array => "pin.was-purged",
    chromium_discardable_memory => "pin.status" "map.remove" "mask.shrinks",
    android_crazy_linker => "name.again" "mmap.mask" "mask.mprotect" "map.fixed",
    skia_discardable_memory => "purge.private" "purge.all",
    libandroid_shmem => "map.scm-rights" "state.shared-file",
    flycast_and_other_emulators => "name.default" "map.shared" "map.mprotect",
    cursor_window => "mask.not-retroactive" "mask.open-file" "mmap.mask",
    memory_heap_and_its_parts => "map.scm-rights" "mask.open-file" "mmap.sigbus",
}

const READ: ProtFlags = ProtFlags::PROT_READ;

/// SET_NAME from a buffer of the ABI's length, as strlcpy(3) fills one.
fn set_name(fd: &Region, name: &CStr) -> nix::Result<i32> {
    let mut buffer = [0; abi::ASHMEM_NAME_LEN as usize];
    let name = name.to_bytes_with_nul();
    buffer[..name.len()].copy_from_slice(name);
    fd.ioctl(abi::ABI_SET_NAME, buffer.as_ptr() as usize)
}

fn set_mask(fd: &Region, mask: ProtFlags) -> nix::Result<i32> {
    fd.ioctl(abi::ABI_SET_PROT_MASK, mask.bits() as usize)
}

fn range(fd: &Region, request: u32, offset: usize, len: usize) -> nix::Result<i32> {
    let pin = abi::ashmem_pin {
        offset: offset as u32,
        len: len as u32,
    };
    fd.ioctl(request, &raw const pin as usize)
}

fn pin(fd: &Region, offset: usize, len: usize) -> nix::Result<i32> {
    range(fd, abi::ABI_PIN, offset, len)
}

fn unpin(fd: &Region, offset: usize, len: usize) -> nix::Result<i32> {
    range(fd, abi::ABI_UNPIN, offset, len)
}

/// Somebody else has all caches purged, through a descriptor of his own.
fn purge_all_caches() -> anyhow::Result<i32> {
    Ok(Region::open()?.ioctl(abi::ABI_PURGE_ALL_CACHES, 0)?)
}

/// The mapping of a shared region, as all of these programs make it.
fn map(fd: &Region, len: usize, prot: ProtFlags) -> nix::Result<Mapping> {
    fd.map_as(len, prot, MapFlags::MAP_SHARED)
}

/// A file of /dev that is there as long as this.
struct Node(PathBuf);

impl Drop for Node {
    fn drop(&mut self) {
        // The test looks whether it is gone.
        let _ = fs::remove_file(&self.0);
    }
}

fn libcutils_finds_the_node_and_tells_its_descriptors() -> anyhow::Result<()> {
    let boot_id = fs::read_to_string("/proc/sys/kernel/random/boot_id")?;
    let path = Path::new("/dev").join(format!("ashmem{}", boot_id.trim()));
    let device = stat(NODE)?.st_rdev;
    let link = || symlink("ashmem", &path).context("symlink");
    let node = || mknod(&path, SFlag::S_IFCHR, Mode::S_IRUSR, device).context("mknod");

    for make in [&link as &dyn Fn() -> anyhow::Result<()>, &node] {
        make()?;
        let _node = Node(path.clone());

        let fd = open(&path, OFlag::O_RDWR | OFlag::O_CLOEXEC, Mode::empty())?;
        let found = fstat(&fd)?;
        let kind = |mode: libc::mode_t| mode & libc::S_IFMT;
        ensure!(kind(found.st_mode) == libc::S_IFCHR);
        ensure!(found.st_rdev != 0 && found.st_size == 0);
        let is_ashmem = |fd: &dyn AsFd| -> anyhow::Result<bool> {
            let other = fstat(fd.as_fd())?;
            Ok(kind(other.st_mode) == libc::S_IFCHR && other.st_rdev == found.st_rdev)
        };

        let fd = Region::from_fd(fd);
        // Short, at the end of what is mapped.
        let name = Edge::new()?.put(b"dalvik-jit-code-cache\0");
        ensure!(fd.ioctl(abi::ABI_SET_NAME, name) == Ok(0));
        ensure!(fd.ioctl(abi::ABI_SET_SIZE, 5 * PAGE - 3) == Ok(0));

        // Whether a descriptor that came from somewhere is one of ashmem's.
        ensure!(is_ashmem(&fd)?);
        ensure!(is_ashmem(&fd.as_fd().try_clone_to_owned()?)?, "dup");
        ensure!(is_ashmem(&Region::open()?)?, "another region");
        ensure!(!is_ashmem(&File::open("/dev/null")?)?, "another device");
        ensure!(
            !is_ashmem(&memfd_create(c"m", MFdFlags::empty())?)?,
            "memfd"
        );

        ensure!(set_mask(&fd, RW) == Ok(0));
        ensure!(fd.ioctl(abi::ABI_GET_SIZE, 0) == Ok(5 * PAGE as i32 - 3));
        ensure!(
            pin(&fd, 0, 0) == Err(Errno::EINVAL),
            "nothing is mapped yet"
        );
        ensure!(fd.name()? == "dalvik-jit-code-cache");
    }
    ensure!(!path.exists());
    Ok(())
}

fn java_memory_file() -> anyhow::Result<()> {
    let length = 3 * PAGE + 100;
    // Very old ones map privately: what they wrote is a copy that no purge takes.
    for (sharing, after_purge) in [(MapFlags::MAP_SHARED, 0), (MapFlags::MAP_PRIVATE, 7)] {
        let fd = Region::open()?;
        ensure!(set_name(&fd, c"MemoryFile") == Ok(0));
        ensure!(fd.ioctl(abi::ABI_SET_SIZE, length) == Ok(0));
        let memory = fd.map_as(length, RW, sharing)?;
        memory.write(length - 1, 7);
        ensure!(fd.ioctl(abi::ABI_GET_SIZE, 0) == Ok(length as i32));

        // allowPurging(true)
        ensure!(unpin(&fd, 0, 0) == Ok(0));
        // readBytes() and writeBytes() pin for as long as they copy.
        for value in [8, 7] {
            ensure!(pin(&fd, 0, 0) == Ok(0));
            memory.write(length - 1, value);
            ensure!(unpin(&fd, 0, 0) == Ok(0));
        }
        ensure!(pin(&fd, 0, 0) == Ok(0));
        ensure!(memory.read(length - 1) == 7);
        ensure!(unpin(&fd, 0, 0) == Ok(0));

        // What was purged is an exception, once.
        ensure!(purge_all_caches()? == 4);
        ensure!(pin(&fd, 0, 0) == Ok(1));
        ensure!(unpin(&fd, 0, 0) == Ok(0));
        ensure!(pin(&fd, 0, 0) == Ok(0));
        ensure!(memory.read(length - 1) == after_purge, "{sharing:?}");
        ensure!(unpin(&fd, 0, 0) == Ok(0));

        // allowPurging(false)
        ensure!(pin(&fd, 0, 0) == Ok(0));
        ensure!(purge_all_caches()? == 0);
        if sharing == MapFlags::MAP_PRIVATE {
            ensure!(
                fd.info()?.allocated == 0,
                "copies are no pages of the region"
            );
        }
    }
    Ok(())
}

fn java_memory_int_array() -> anyhow::Result<()> {
    const INTS: usize = 16;
    const SETS: u32 = 500;
    /// get() and set() look at the array between these two.
    fn pinned<T>(fd: &Region, was_purged: i32, body: impl FnOnce() -> T) -> anyhow::Result<T> {
        let found = pin(fd, 0, 0);
        ensure!(found == Ok(was_purged), "PIN: {found:?}");
        let value = body();
        let found = unpin(fd, 0, 0);
        ensure!(found == Ok(0), "UNPIN: {found:?}");
        Ok(value)
    }

    let (here, there) = sockets()?;
    // Another process has it in a parcel, to read only.
    let reader = spawn(|| {
        let fd = Region::from_fd(receive_fd(&there)?);
        let size = fd.ioctl(abi::ABI_GET_SIZE, 0)? as usize;
        ensure!(size / 4 == INTS);
        let array = map(&fd, size, READ)?;
        let mut last = 0;
        while last < SETS {
            let value = pinned(&fd, 0, || array.atomic(60).load(Ordering::SeqCst))?;
            ensure!(value >= last, "{value} after {last}");
            last = value;
        }
        Ok(())
    })?;

    let fd = Region::open()?;
    ensure!(set_name(&fd, c"MemoryIntArray") == Ok(0));
    ensure!(fd.ioctl(abi::ABI_SET_SIZE, INTS * 4) == Ok(0));
    ensure!(set_mask(&fd, RW) == Ok(0));
    let array = map(&fd, INTS * 4, RW)?;
    ensure!(unpin(&fd, 0, 0) == Ok(0));
    send_fd(&here, fd.as_fd())?;
    for value in 1..=SETS {
        pinned(&fd, 0, || array.atomic(60).store(value, Ordering::SeqCst))?;
    }
    reader.join()?;

    ensure!(purge_all_caches()? == 1);
    // An exception for him who asks first; then it is an array of zeros.
    pinned(&fd, 1, || ())?;
    ensure!(pinned(&fd, 0, || array.atomic(60).load(Ordering::SeqCst))? == 0);
    Ok(())
}

fn chromium_discardable_memory() -> anyhow::Result<()> {
    // The first page is what both sides agree on; behind it lies the data.
    const PAGES: usize = 9;
    let (to_client, from_browser) = sockets()?;
    let (mut to_browser, mut from_client) = {
        let (a, b) = sockets()?;
        (File::from(a), File::from(b))
    };
    let client = spawn(|| {
        let fd = Region::from_fd(receive_fd(&from_browser)?);
        ensure!(fd.ioctl(abi::ABI_GET_PROT_MASK, 0) == Ok(RW.bits()));
        let memory = map(&fd, fd.ioctl(abi::ABI_GET_SIZE, 0)? as usize, RW)?;
        memory.stamp(1..PAGES, 5);

        // Spans of it are unlocked, and locked again: 0 says they are whole.
        for (start, end) in [(2, 4), (1, 9), (8, 9)] {
            ensure!(unpin(&fd, start * PAGE, (end - start) * PAGE) == Ok(0));
            ensure!(pin(&fd, start * PAGE, (end - start) * PAGE) == Ok(0));
        }
        ensure!(unpin(&fd, PAGE, 3 * PAGE) == Ok(0));
        ensure!(unpin(&fd, 6 * PAGE, 3 * PAGE) == Ok(0));
        ensure!(range(&fd, abi::ABI_GET_PIN_STATUS, 0, 0) == Ok(0));
        ensure!(purge_all_caches()? == 6);
        ensure!(pin(&fd, 2 * PAGE, PAGE) == Ok(1));
        ensure!(pin(&fd, 4 * PAGE, 2 * PAGE) == Ok(0), "was never unlocked");
        ensure!(pin(&fd, PAGE, 3 * PAGE) == Ok(1), "two of them still count");
        ensure!(pin(&fd, 6 * PAGE, 3 * PAGE) == Ok(1));
        ensure!(range(&fd, abi::ABI_GET_PIN_STATUS, 0, 0) == Ok(1));
        let picture = memory.picture(5);
        ensure!(picture == "x000xx000", "{picture}");
        // Both sides have what is made anew.
        memory.stamp(0..PAGES, 6);
        to_browser.write_all(b"!")?;
        to_browser.read_exact(&mut [0])?;
        let picture = memory.picture(6);
        ensure!(picture == "x00000000", "{picture}");
        Ok(())
    })?;

    // If the client fails, there is an end to what it says.
    drop(to_browser);
    let fd = Region::open()?;
    ensure!(set_name(&fd, c"shared_memory/discardable") == Ok(0));
    ensure!(fd.ioctl(abi::ABI_SET_SIZE, PAGES * PAGE) == Ok(0));
    ensure!(set_mask(&fd, RW) == Ok(0));
    ensure!(fd.ioctl(abi::ABI_GET_PROT_MASK, 0) == Ok(RW.bits()));
    let memory = map(&fd, PAGES * PAGE, RW)?;
    // The state in the first page: everything else depends on it.
    memory.stamp(0..1, 5);
    send_fd(&to_client, fd.as_fd())?;
    from_client.read_exact(&mut [0])?;
    ensure!(memory.picture(6) == "x".repeat(PAGES));

    // The browser takes it away itself.
    let data = NonNull::new((memory.base() + PAGE) as *mut libc::c_void).context("no address")?;
    // SAFETY: Content of a mapping of this test goes.
    unsafe { madvise(data, (PAGES - 1) * PAGE, MmapAdvise::MADV_REMOVE) }?;
    ensure!(fd.info()?.resident == 1);
    from_client.write_all(b"!")?;
    client.join()?;
    ensure!(pin(&fd, 0, 0) == Ok(0), "that was no purge");

    // From here on it can only be read.
    let mask = ProtFlags::from_bits_retain(fd.ioctl(abi::ABI_GET_PROT_MASK, 0)?);
    ensure!(set_mask(&fd, mask - ProtFlags::PROT_WRITE) == Ok(0));
    ensure!(fd.ioctl(abi::ABI_GET_PROT_MASK, 0) == Ok(READ.bits()));
    ensure!(set_mask(&fd, mask) == Err(Errno::EINVAL));
    Ok(())
}

fn android_crazy_linker() -> anyhow::Result<()> {
    let len = 4 * PAGE;
    let (here, there) = sockets()?;
    // The other process has relocated the same library, but for a page.
    let other = spawn(|| {
        let fd = Region::from_fd(receive_fd(&there)?);
        // It trusts a descriptor only if nobody can write by it any more.
        let writable = map(&fd, PAGE, ProtFlags::PROT_WRITE).err();
        ensure!(writable == Some(Errno::EPERM), "{writable:?}");
        let page = map(&fd, PAGE, READ)?;
        // SAFETY: Only whether it can be written would change.
        let found = unsafe { mprotect(page.pointer(), PAGE, RW) };
        ensure!(found == Err(Errno::EACCES), "{found:?}");
        drop(page);

        // SAFETY: Without MAP_FIXED a mapping replaces nothing.
        let relro = unsafe { mmap_anonymous(None, len.try_into()?, RW, MapFlags::MAP_PRIVATE) }?;
        let theirs = map(&fd, len, READ)?;
        for page in 0..4 {
            let own = (relro.as_ptr() as usize + page * PAGE) as *mut u8;
            let value = if page == 1 {
                99
            } else {
                theirs.read(page * PAGE)
            };
            // SAFETY: It lies in the mapping that was just made.
            unsafe { own.write(value) };
        }
        drop(theirs);
        // What is equal is replaced by what is shared.
        let shared = |first: usize, pages: usize| {
            let at = relro.as_ptr() as usize + first * PAGE;
            let offset = (first * PAGE) as i64;
            let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
            // SAFETY: Nobody uses the pages that it replaces.
            unsafe { fd.map_at(at, pages * PAGE, READ, flags, offset) }
        };
        let (first, rest) = (shared(0, 1)?, shared(2, 2)?);
        ensure!(first.base() == relro.as_ptr() as usize);
        ensure!((first.read(0), rest.read(0), rest.read(PAGE)) == (10, 12, 13));
        let own = (relro.as_ptr() as usize + PAGE) as *const u8;
        // SAFETY: It lies between the two, in what is left of the mapping.
        let own = unsafe { own.read() };
        ensure!(own == 99);
        dies_of(Signal::SIGSEGV, || rest.write(0, 1))
    })?;

    let fd = Region::open()?;
    ensure!(fd.ioctl(abi::ABI_SET_SIZE, len) == Ok(0));
    ensure!(set_name(&fd, c"RELRO:libchrome.so") == Ok(0));
    ensure!(set_name(&fd, c"RELRO:libchromeview.so") == Ok(0));
    let relro = map(&fd, len, RW)?;
    for page in 0..4 {
        relro.write(page * PAGE, 10 + page as u8);
    }
    drop(relro);
    ensure!(set_mask(&fd, READ) == Ok(0));
    send_fd(&here, fd.as_fd())?;
    other.join()
}

fn skia_discardable_memory() -> anyhow::Result<()> {
    const PAGES: usize = 8;
    let create = || -> anyhow::Result<(Region, Mapping)> {
        let fd = Region::open()?;
        ensure!(set_name(&fd, c"Skia_Ashmem_Discardable_Memory") == Ok(0));
        ensure!(fd.ioctl(abi::ABI_SET_SIZE, PAGES * PAGE) == Ok(0));
        ensure!(set_mask(&fd, RW) == Ok(0));
        // It does not share what it has, but with itself.
        let memory = fd.map_as(PAGES * PAGE, RW, MapFlags::MAP_PRIVATE)?;
        Ok((fd, memory))
    };
    let (kept, unlocked) = (create()?, create()?);
    kept.1.stamp(0..PAGES, 3);
    unlocked.1.stamp(0..PAGES, 3);

    // unlock() and lock(), and nothing comes between.
    for _ in 0..3 {
        ensure!(unpin(&unlocked.0, 0, 0) == Ok(0));
        ensure!(pin(&unlocked.0, 0, 0) == Ok(0));
        ensure!(unlocked.1.picture(3) == "x".repeat(PAGES));
    }
    ensure!(unpin(&unlocked.0, 0, 0) == Ok(0));
    // purge(), by the very descriptor: what others have unlocked goes as well.
    let third = create()?;
    ensure!(unpin(&third.0, 0, 0) == Ok(0));
    ensure!(unlocked.0.ioctl(abi::ABI_PURGE_ALL_CACHES, 0) == Ok(2 * PAGES as i32));
    // What has no copy yet reads as zeros.
    ensure!(third.1.picture(3) == "0".repeat(PAGES));
    for (fd, memory) in [unlocked, third] {
        // lock() has failed: the memory is given back at once.
        ensure!(pin(&fd, 0, 0) == Ok(1));
        drop(memory);
        drop(fd);
    }
    ensure!(kept.1.picture(3) == "x".repeat(PAGES), "was never unlocked");
    ensure!(purge_all_caches()? == 0);
    Ok(())
}

fn libandroid_shmem() -> anyhow::Result<()> {
    let size = 3 * PAGE;
    let (here, there) = sockets()?;
    // shmat(3) of an identifier that another process made.
    let attaching = spawn(|| {
        let fd = Region::from_fd(receive_fd(&there)?);
        let found = fd.ioctl(abi::ABI_GET_SIZE, 0)? as usize;
        ensure!(found == size);
        let memory = map(&fd, found, RW)?;
        ensure!(memory.picture(1) == "x00");
        memory.stamp(1..2, 1);
        // shmdt(3), and once more, to read only.
        drop(memory);
        let memory = map(&fd, found, READ)?;
        ensure!(memory.picture(1) == "xx0");
        Ok(())
    })?;

    let fd = Region::open()?;
    ensure!(set_name(&fd, c"shmem-1a2b") == Ok(0));
    ensure!(fd.ioctl(abi::ABI_SET_SIZE, size) == Ok(0));
    let memory = map(&fd, size, RW)?;
    memory.stamp(0..1, 1);
    send_fd(&here, fd.as_fd())?;
    attaching.join()?;
    ensure!(memory.picture(1) == "xx0");
    Ok(())
}

fn flycast_and_other_emulators() -> anyhow::Result<()> {
    // Two memories of the machine in one region, each seen at two addresses.
    const RAM: usize = 4;
    const VRAM: usize = 2;
    const SPACE: usize = 16;
    let fd = Region::open()?;
    ensure!(fd.ioctl(abi::ABI_SET_SIZE, (RAM + VRAM) * PAGE) == Ok(0));
    ensure!(fd.name()? == "dev/ashmem", "nobody gave it one");

    // SAFETY: Without MAP_FIXED a mapping replaces nothing.
    let space = unsafe {
        mmap_anonymous(
            None,
            (SPACE * PAGE).try_into()?,
            ProtFlags::PROT_NONE,
            MapFlags::MAP_PRIVATE | MapFlags::MAP_NORESERVE,
        )
    }?;
    let place = |at: usize, first: usize, pages: usize| {
        let address = space.as_ptr() as usize + at * PAGE;
        let flags = MapFlags::MAP_SHARED | MapFlags::MAP_FIXED;
        let offset = (first * PAGE) as i64;
        // SAFETY: It replaces what was reserved for it.
        unsafe { fd.map_at(address, pages * PAGE, RW, flags, offset) }
    };
    let (ram, vram) = (place(0, 0, RAM)?, place(4, RAM, VRAM)?);
    let (ram_mirror, vram_mirror) = (place(8, 0, RAM)?, place(12, RAM, VRAM)?);
    ram.stamp(1..2, 9);
    vram_mirror.stamp(0..1, 9);
    ensure!(ram_mirror.picture(9) == "0x00" && vram.picture(9) == "x0");

    // Pages whose code was translated are watched for writes, again and again.
    let watched = NonNull::new((ram.base() + PAGE) as *mut libc::c_void).context("no address")?;
    for value in 20..30 {
        // SAFETY: A write ends by a signal from here on.
        unsafe { mprotect(watched, PAGE, READ) }?;
        ensure!(ram.read(PAGE) == ram_mirror.read(PAGE));
        dies_of(Signal::SIGSEGV, || ram.write(PAGE, value))?;
        // Neither its neighbours nor its mirror are watched.
        ram.write(0, value);
        ram.write(2 * PAGE, value);
        ram_mirror.write(PAGE, value);
        ensure!(ram.read(PAGE) == value);
        // SAFETY: It was so before.
        unsafe { mprotect(watched, PAGE, RW) }?;
        ram.write(PAGE, value + 1);
        ensure!(ram_mirror.read(PAGE) == value + 1);
    }
    ensure!(fd.info()?.allocated == (RAM + VRAM) as u64, "a page a page");
    Ok(())
}

fn cursor_window() -> anyhow::Result<()> {
    let size = 4 * PAGE;
    let (here, there) = sockets()?;
    // createFromParcel(), in another process.
    let receiver = spawn(|| {
        let fd = Region::from_fd(receive_fd(&there)?);
        let found = fd.ioctl(abi::ABI_GET_SIZE, 0)? as usize;
        ensure!(found == size);
        let window = map(&fd, found, READ)?;
        ensure!(window.picture(2) == "x000");
        // It cannot write by any way.
        ensure!(map(&fd, found, RW).err() == Some(Errno::EPERM));
        // SAFETY: Only whether it can be written would change.
        let found = unsafe { mprotect(window.pointer(), PAGE, RW) };
        ensure!(found == Err(Errno::EACCES), "{found:?}");
        ensure!(set_mask(&fd, RW) == Err(Errno::EINVAL));
        // Yet it sees what is written.
        ensure!(fd.ioctl(abi::ABI_GET_PROT_MASK, 0) == Ok(READ.bits()));
        let mut seen = File::from(there.try_clone()?);
        seen.write_all(b"!")?;
        seen.read_exact(&mut [0])?;
        ensure!(window.picture(2) == "xx00");
        Ok(())
    })?;

    drop(there);
    let fd = Region::open()?;
    ensure!(set_name(&fd, c"CursorWindow: /data/contacts.db") == Ok(0));
    ensure!(fd.ioctl(abi::ABI_SET_SIZE, size) == Ok(0));
    ensure!(set_mask(&fd, RW) == Ok(0));
    let window = map(&fd, size, RW)?;
    ensure!(set_mask(&fd, READ) == Ok(0));
    // Its own mapping stays what it was.
    window.stamp(0..1, 2);
    send_fd(&here, fd.as_fd())?;
    let mut seen = File::from(here.try_clone()?);
    seen.read_exact(&mut [0])?;
    window.stamp(1..2, 2);
    seen.write_all(b"!")?;
    receiver.join()
}

/// What a process is told of a part of a heap, beside the descriptor.
fn tell(socket: &OwnedFd, heap: usize, offset: usize, size: usize) -> anyhow::Result<()> {
    let mut socket = File::from(socket.try_clone()?);
    for number in [heap, offset, size] {
        socket.write_all(&(number as u64).to_ne_bytes())?;
    }
    Ok(())
}

/// What [`tell`] sent.
fn hear(socket: &OwnedFd) -> anyhow::Result<[usize; 3]> {
    let mut socket = File::from(socket.try_clone()?);
    let mut numbers = [0; 3];
    for number in &mut numbers {
        let mut bytes = [0; 8];
        socket.read_exact(&mut bytes)?;
        *number = u64::from_ne_bytes(bytes) as usize;
    }
    Ok(numbers)
}

fn memory_heap_and_its_parts() -> anyhow::Result<()> {
    const HEAP: usize = 16 * PAGE;
    // Not of whole pages: they are parts of memory, not of mappings.
    const PARTS: [(usize, usize); 3] = [(0, 100), (160, 2 * PAGE), (3 * PAGE + 32, 12 * PAGE)];
    for access in [RW, READ] {
        let (here, there) = sockets()?;
        let remote = spawn(|| {
            let fd = Region::from_fd(receive_fd(&there)?);
            for (part, (offset, size)) in PARTS.into_iter().enumerate() {
                let told = hear(&there)?;
                ensure!(told == [HEAP, offset, size], "{told:?}");
                // The whole heap is mapped for each part that comes.
                let heap = map(&fd, told[0], access)?;
                ensure!(heap.read(offset) == part as u8 + 1);
                ensure!(heap.read(offset + size - 1) == part as u8 + 1);
                if access == RW {
                    heap.write(offset, 0x80 + part as u8);
                }
            }
            let writable = map(&fd, HEAP, RW).err();
            let expected = (access == READ).then_some(Errno::EPERM);
            ensure!(writable == expected, "{writable:?}");
            // What lies behind the heap is nobody's.
            let flags = MapFlags::MAP_SHARED;
            let offset = (HEAP - PAGE) as i64;
            let end = fd.map_far(2 * PAGE, READ, flags, offset)?;
            end.read(0);
            dies_of(Signal::SIGBUS, || {
                end.read(PAGE);
            })
        })?;

        let fd = Region::open()?;
        ensure!(set_name(&fd, c"MemoryHeapBase") == Ok(0));
        ensure!(fd.ioctl(abi::ABI_SET_SIZE, HEAP) == Ok(0));
        let heap = map(&fd, HEAP, RW)?;
        if access == READ {
            ensure!(set_mask(&fd, READ) == Ok(0));
        }
        for (part, (offset, size)) in PARTS.into_iter().enumerate() {
            for at in [offset, offset + size - 1] {
                heap.write(at, part as u8 + 1);
            }
        }
        send_fd(&here, fd.as_fd())?;
        for (offset, size) in PARTS {
            tell(&here, HEAP, offset, size)?;
        }
        remote.join()?;
        for (part, (offset, size)) in PARTS.into_iter().enumerate() {
            let first = if access == RW { 0x80 } else { 1 } + part as u8;
            ensure!(heap.read(offset) == first, "part {part}");
            ensure!(
                heap.read(offset + size - 1) == part as u8 + 1,
                "part {part}"
            );
        }
    }
    Ok(())
}
