// What the files of /proc and /sys say about a host.
#ifndef QUIRE_VMM_HOST_FACTS_H_
#define QUIRE_VMM_HOST_FACTS_H_

#include <compare>
#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"
#include "base/units.h"
#include "vmm/host.h"

namespace quire {

struct KernelVersion {
  int major = 0;
  int minor = 0;
  friend auto operator<=>(const KernelVersion&, const KernelVersion&) = default;
};

// 0.0 where it cannot be found out.
KernelVersion Kernel(const Host& host);

// A number of /proc/meminfo such as "MemTotal"; zero where it is not there.
ByteCount MemInfo(const Host& host, absl::string_view key);

// The lowest memory limit of this process's cgroup and those above it, version 1 or 2; nothing where there is none.
// Looks in /sys/fs/cgroup, where every distribution mounts them.
std::optional<ByteCount> CgroupLimit(const Host& host);

// RAM, or the cgroup's limit where that is lower.
ByteCount UsableMemory(const Host& host);

// The number that a file consists of.
std::optional<uint64_t> NumberIn(const Host& host, const std::string& path);

// The word in brackets of a file such as "always [madvise] never"; empty where there is none.
std::string ChosenIn(const Host& host, const std::string& path);

// Whether the CPUs have a flag of /proc/cpuinfo, such as "vmx".
bool HasCpuFlag(const Host& host, absl::string_view flag);

// Whether this process has a capability(7), by number.
bool HasCapability(const Host& host, int capability);
inline constexpr int kCapSysPtrace = 19;
inline constexpr int kCapSysAdmin = 21;
inline constexpr int kCapSysNice = 23;

// The kernel's last message that says why KVM does not work, without time stamp; empty where there is none.
std::string KvmComplaint(const Host& host);

}  // namespace quire

#endif  // QUIRE_VMM_HOST_FACTS_H_
