// SPDX-License-Identifier: GPL-2.0-only

//! One memory in several processes.

use std::os::fd::AsFd;

use anyhow::ensure;

use crate::harness::tests;
use crate::region::PAGE;
use crate::region::Region;
use crate::tests::process::in_child;
use crate::tests::process::receive_fd;
use crate::tests::process::send_fd;
use crate::tests::process::sockets;
use crate::tests::process::spawn;

tests! {
    two_mappings_are_one_memory,
    fork_shares_both_ways,
    descriptor_sent_to_a_stranger_is_the_same_region,
    purge_reaches_every_process,
}

fn two_mappings_are_one_memory() -> anyhow::Result<()> {
    let region = Region::sized(3)?;
    let (a, b) = (region.map(3)?, region.map(2)?);
    a.stamp(0..3, 1);
    ensure!(b.picture(1) == "xx");
    b.stamp(1..2, 2);
    ensure!(a.picture(2) == "?x?");
    Ok(())
}

fn fork_shares_both_ways() -> anyhow::Result<()> {
    let region = Region::sized(2)?;
    let map = region.map(2)?;
    map.stamp(0..1, 1);
    in_child(|| {
        ensure!(map.picture(1) == "x0");
        map.stamp(1..2, 1);
        Ok(())
    })?;
    ensure!(map.picture(1) == "xx");
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
