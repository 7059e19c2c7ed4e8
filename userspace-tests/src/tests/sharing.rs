// SPDX-License-Identifier: GPL-2.0-only

//! One memory in several processes.

use std::os::fd::AsFd;

use anyhow::ensure;
use nix::sys::mman::MapFlags;
use nix::sys::mman::ProtFlags;

use crate::harness::tests;
use crate::region::PAGE;
use crate::region::RW;
use crate::region::Region;
use crate::tests::process::await_go;
use crate::tests::process::go;
use crate::tests::process::in_child;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;

tests! {
    two_mappings_are_one_memory => "map.shared",
    fork_shares_both_ways => "map.fork",
    descriptor_sent_to_a_stranger_is_the_same_region => "map.scm-rights",
    purge_reaches_every_process,
}

fn two_mappings_are_one_memory() -> anyhow::Result<()> {
    let region = Region::sized(3)?;
    let (a, b) = (region.map(3)?, region.map(2)?);
    let tail = region.map_from(1, 2 * PAGE, RW, MapFlags::MAP_SHARED)?;
    let read_only = region.map_as(3 * PAGE, ProtFlags::PROT_READ, MapFlags::MAP_SHARED)?;
    a.label();
    ensure!(b.labels() == "ab" && tail.labels() == "bc");
    b.stamp(1..2, b'x');
    tail.stamp(1..2, b'y');
    for map in [&a, &read_only] {
        ensure!(map.labels() == "axy", "{}", map.labels());
    }
    ensure!(tail.labels() == "xy");
    // Not only the same content: the same frames.
    let frames = a.frames()?;
    ensure!(frames.iter().all(|frame| *frame != 0), "{frames:?}");
    ensure!(b.frames()? == frames[..2] && tail.frames()? == frames[1..]);
    ensure!(read_only.frames()? == frames);
    ensure!(region.info()?.allocated == 3);
    Ok(())
}

fn fork_shares_both_ways() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    map.stamp(0..1, b'p');
    let (here, there) = sockets()?;
    let child = spawn(|| {
        ensure!(map.labels() == "p000");
        map.stamp(1..2, b'c');
        go(&there)?;
        // What the parent writes after the fork.
        await_go(&there)?;
        ensure!(map.labels() == "pcq0", "{}", map.labels());
        // And so does a child of the child.
        in_child(|| {
            map.stamp(3..4, b'g');
            Ok(())
        })?;
        ensure!(map.labels() == "pcqg");
        Ok(())
    })?;
    await_go(&here)?;
    ensure!(map.labels() == "pc00", "{}", map.labels());
    map.stamp(2..3, b'q');
    go(&here)?;
    child.join()?;
    ensure!(map.labels() == "pcqg");
    ensure!(region.info()?.allocated == 4);
    Ok(())
}

fn descriptor_sent_to_a_stranger_is_the_same_region() -> anyhow::Result<()> {
    let (here, there) = sockets()?;
    // Started before there is a region, so that nothing of it is inherited.
    let stranger = spawn(|| {
        let region = Region::from_fd(receive_fd(&there)?);
        ensure!(region.name()? == "sent");
        ensure!(region.size()? == 2 * PAGE);
        let map = region.map(2)?;
        ensure!(map.picture(1) == "x0");
        map.stamp(1..2, 1);
        region.unpin(0..1)?;
        Ok(())
    })?;
    let region = Region::sized(2)?;
    region.set_name(c"sent")?;
    let map = region.map(2)?;
    map.stamp(0..1, 1);
    send_fd(&here, region.as_fd())?;
    stranger.join()?;
    ensure!(map.picture(1) == "xx");
    // What was unpinned there is unpinned here, though that process is gone.
    ensure!(region.picture(2)? == "u.");
    Ok(())
}

fn purge_reaches_every_process() -> anyhow::Result<()> {
    let region = Region::sized(4)?;
    let map = region.map(4)?;
    map.stamp(0..4, 1);
    in_child(|| {
        ensure!(map.picture(1) == "xxxx");
        in_child(|| {
            region.unpin(1..3)?;
            ensure!(region.purge_all()? == 2);
            Ok(())
        })?;
        ensure!(map.picture(1) == "x00x", "in the child");
        Ok(())
    })?;
    ensure!(map.picture(1) == "x00x");
    ensure!(region.pin(0..4)?);
    Ok(())
}
