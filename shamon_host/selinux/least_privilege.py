"""What the daemon's domain must not be able to do, whatever other modules allow: pure.

The daemon talks to peers and reads what they say. Whoever takes it over by that has the network, the TPM and the VMs of
this host, which are its work; he must not get the host's root, its SELinux policy, its kernel, other programs, or the
daemon's own program and configuration, which are what peers appraise.
"""

from shamon_host.selinux.ports import KernelSelinux
from shamon_host.selinux.questions import Finding, Group, Question, judge, must_not

_OBJECT = "system_u:object_r:{}:s0"
_SYSTEM = "system_u:system_r:{}:s0"
_TOO_MUCH = "Remove the rule or the permissive domain that another module brings for shamon_t (semodule -lfull)"
_WRITE = "write append create unlink rename setattr relabelfrom relabelto"

_NOT_ITSELF = (
    ("loads modules into the kernel", "capability sys_module"),
    ("administers the system at large (mounts, namespaces)", "capability sys_admin"),
    ("sends raw packets", "capability net_raw"),
    ("gives files away", "capability chown fowner"),
    ("reaches hardware and memory", "capability sys_rawio"),
    ("makes devices", "capability mknod"),
    ("becomes another user", "capability setuid setgid"),
    ("traces processes", "capability sys_ptrace"),
    ("sets the clock", "capability sys_time"),
    ("boots the host", "capability sys_boot"),
    ("changes root directories", "capability sys_chroot"),
    ("changes the audit system", "capability audit_control"),
    ("changes or passes over labels", "capability2 mac_admin mac_override"),
    ("loads BPF programs", "capability2 bpf"),
    ("makes memory that is writable and executable", "process execmem execheap execstack"),
    ("leaves its domain by itself", "process setcurrent setexec"),
)
_NOT_TO_OTHERS: tuple[tuple[str, str, str], ...] = (
    (
        "changes SELinux's mode, policy and booleans",
        _OBJECT.format("security_t"),
        "security load_policy setenforce setbool setsecparam setcheckreqprot",
    ),
    ("reads passwords", _OBJECT.format("shadow_t"), "file open read write"),
    ("reads the keys of ssh", _OBJECT.format("sshd_key_t"), "file open read write"),
    ("reaches disks past their files", _OBJECT.format("fixed_disk_device_t"), "blk_file open read write"),
    ("reaches memory past its own", _OBJECT.format("memory_device_t"), "chr_file open read write"),
    ("changes its program", _OBJECT.format("shamon_exec_t"), f"file {_WRITE}"),
    ("changes its configuration", _OBJECT.format("shamon_etc_t"), f"file {_WRITE}"),
    ("changes its TLS key", _OBJECT.format("shamon_key_t"), f"file {_WRITE}"),
    ("changes programs", _OBJECT.format("bin_t"), f"file {_WRITE}"),
    ("changes libraries and the Python that it runs", _OBJECT.format("lib_t"), f"file {_WRITE}"),
    ("changes what lies under /usr and /opt", _OBJECT.format("usr_t"), f"file {_WRITE}"),
    ("changes what lies under /etc", _OBJECT.format("etc_t"), f"file {_WRITE}"),
    ("changes units of systemd", _OBJECT.format("systemd_unit_t"), f"file {_WRITE}"),
    ("changes SELinux's files", _OBJECT.format("selinux_config_t"), f"file {_WRITE}"),
    ("changes the store of SELinux's modules", _OBJECT.format("semanage_store_t"), f"file {_WRITE}"),
    ("reads or writes what VMs write", _OBJECT.format("svirt_image_t"), "file open read write append"),
    ("writes to files of root", _OBJECT.format("user_home_t"), f"file {_WRITE}"),
    ("starts or stops units", _SYSTEM.format("init_t"), "system start stop reload halt reboot"),
    ("becomes root's shell", "unconfined_u:unconfined_r:unconfined_t:s0", "process transition dyntransition ptrace"),
    ("becomes or traces systemd", _SYSTEM.format("init_t"), "process transition dyntransition ptrace sigkill"),
    ("becomes or traces libvirt", _SYSTEM.format("virtd_t"), "process transition dyntransition ptrace sigkill"),
    ("becomes or traces a VM", _SYSTEM.format("svirt_t"), "process transition dyntransition ptrace sigkill"),
)


def least_privilege_questions(kernel: KernelSelinux, own: str) -> tuple[Question, ...]:
    """`own`: the daemon's context. Types that the policy does not know are left out. Raises BackendFailed."""
    asked = [(what, own, vector) for what, vector in _NOT_ITSELF]
    asked += [item for item in _NOT_TO_OTHERS if kernel.is_valid(item[1])]
    return tuple(must_not(Group.DAEMON, what, own, target, vector, remedy=_TOO_MUCH) for what, target, vector in asked)


def least_privilege_findings(kernel: KernelSelinux, own: str) -> tuple[Finding, ...]:
    """Raises BackendFailed."""
    return judge(kernel, least_privilege_questions(kernel, own))
