from pathlib import Path

import pytest

from launch import quota, space
from launch.quota import Mount, Quota, mount_of, parse_quota, parse_xfs_quota
from tests.launch.test_space import TINY
from training.config import RunConfig, TaskConfig, UsageError

NFS = Mount("fs1.site.org:/export/home", "/home", "nfs4")
LUSTRE = Mount("10.0.0.1@o2ib:/scratch", "/scratch", "lustre")
XFS = Mount("/dev/mapper/data", "/data", "xfs")

QUOTA = """\
Disk quotas for user alice (uid 1000): 
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
fs1.site.org:/export/home 18349284* 18000000 20000000   6days  201234       0       0        
      /dev/sda2      20       0       0               5       0       0        
"""  # noqa: W291 (as it is printed)
WRAPPED = """\
Disk quotas for user alice (uid 1000): 
     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace
fs1.site.org:/export/home
                 18349284  20000000  0           201234       0       0        
"""  # noqa: W291
LFS = """\
Disk quotas for usr alice (uid 1000):
     Filesystem  kbytes   quota   limit   grace   files   quota   limit   grace
       /scratch 1234567  5000000 6000000       -   12345  100000  120000       -
uid 1000 is using default file quota setting
"""
LFS_BUSY = LFS.replace(" 1234567 ", " [1234567]* ")
LFS_NONE = LFS.replace("5000000 6000000", "0 0")
XFS_TEXT = "/dev/mapper/data      1048576    2097152    4194304     00 [--------] /data\n"


@pytest.mark.parametrize(
    ("parse", "text", "mount", "expected"),
    [
        (parse_quota, QUOTA, NFS, (18349284, 20000000)),
        (parse_quota, WRAPPED, NFS, (18349284, 20000000)),
        (parse_quota, LFS, LUSTRE, (1234567, 6000000)),
        (parse_quota, LFS_BUSY, LUSTRE, (1234567, 6000000)),
        (parse_quota, LFS_NONE, LUSTRE, None),
        (parse_quota, "Disk quotas for user root (uid 0): none\n", NFS, None),
        (parse_quota, "lfs quota: invalid path\n/scratch - - -\n", LUSTRE, None),
        (parse_quota, "/scratch", LUSTRE, None),
        (parse_quota, QUOTA, XFS, None),
        (parse_xfs_quota, XFS_TEXT, XFS, (1048576, 4194304)),
        (parse_xfs_quota, "", XFS, None),
    ],
)
def test_what_the_tools_print(parse, text, mount, expected):
    assert parse(text, mount) == (expected and tuple(n * 1024 for n in expected))


def test_the_mount_of_a_folder():
    mounts = (
        "/dev/sda1 / ext4 rw 0 0\nfs1.site.org:/export/home /home nfs4 rw 0 0\n"
        "10.0.0.1@o2ib:/scratch /scratch lustre rw 0 0\n/dev/sdb /with\\040space xfs rw 0 0\n"
    )
    assert mount_of(Path("/home/a/runs"), mounts) == NFS
    assert mount_of(Path("/scratch"), mounts) == LUSTRE
    assert mount_of(Path("/homely"), mounts) == Mount("/dev/sda1", "/", "ext4")
    assert mount_of(Path("/with space/x"), mounts) == Mount("/dev/sdb", "/with space", "xfs")


def test_a_narrow_quota_is_refused_in_one_line(tmp_path, monkeypatch):
    """The tool is a real program on the PATH; slow or broken ones say nothing."""
    tool = tmp_path / "bin" / "lfs"
    tool.parent.mkdir()
    tool.write_text(f"#!/bin/sh\ncat <<'END'\n{LFS.replace('1234567', '5999000')}END\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:/usr/bin:/bin")
    monkeypatch.setattr(quota, "mount_of", lambda folder: LUSTRE)
    found = quota.narrowest(tmp_path)
    assert found is not None and found.free == 1000 * 1024 and found.whose.startswith("user ")
    config = RunConfig(task=TaskConfig(name="t"), model=TINY)
    with pytest.raises(UsageError, match=r"the quota of user \w+ leaves 1000 kB, and the run"):
        space.check_space(config, tmp_path)
    tool.write_text("#!/bin/sh\nsleep 5\n")
    monkeypatch.setattr(quota, "SECONDS", 0.2)
    assert quota.narrowest(tmp_path) is None
    tool.unlink()
    assert quota.narrowest(tmp_path) is None
    assert Quota("user a", 5, 3).free == 0


def test_what_a_run_keeps():
    assert [space.bytes_kept(100, keep) for keep in ("results", "model", "all")] == [0, 400, 3200]
    assert space.bytes_kept(None, "model") is None and space.bytes_kept(None, "results") == 0
    config = RunConfig(task=TaskConfig(name="t"), model=TINY)
    assert space.disk_text(config).startswith("keeps ")
    assert "(the weights), needs" in space.disk_text(config)
