#include "vmm/baseline/real_host.h"

#include <glob.h>
#include <unistd.h>

#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/match.h"
#include "base/units.h"
#include "vmm/baseline/kernel_baseline.h"
#include "vmm/baseline/setting.h"

namespace quire {

std::map<std::string, std::string> HostSettingsNow() {
  std::map<std::string, std::string> now;
  for (const char* pattern :
       {"/proc/swaps", "/sys/block/zram*/disksize", "/sys/block/zram*/comp_algorithm", "/sys/fs/cgroup/quire-*",
        "/sys/fs/cgroup/cgroup.subtree_control", "/sys/fs/cgroup/memory/quire-*",
        "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/kernel/mm/transparent_hugepage/hugepages-*/enabled",
        "/sys/kernel/mm/ksm/run", "/sys/kernel/mm/ksm/advisor_mode", "/sys/kernel/mm/ksm/smart_scan",
        "/sys/kernel/mm/ksm/use_zero_pages", "/sys/kernel/mm/ksm/pages_to_scan", "/sys/kernel/mm/ksm/sleep_millisecs",
        "/run/quire/host-changes.*"}) {
    glob_t found = {};
    if (glob(pattern, 0, nullptr, &found) == 0) {
      for (size_t i = 0; i < found.gl_pathc; ++i) now[found.gl_pathv[i]] = ReadSetting(found.gl_pathv[i]).value_or("");
    }
    globfree(&found);
  }
  return now;
}

std::string ObstacleToBaseline() {
  if (geteuid() != 0) return "it takes root";
  if (access("/sys/class/zram-control/hot_add", W_OK) != 0) return "there is no zram (modprobe zram)";
  if (access("/sys/kernel/mm/ksm/run", W_OK) != 0) return "there is no KSM";
  const bool v1 = access("/sys/fs/cgroup/memory/memory.limit_in_bytes", F_OK) == 0;
  const std::string controllers = ReadSetting("/sys/fs/cgroup/cgroup.controllers").value_or("");
  if (!v1 && !absl::StrContains(controllers, "memory")) return "there is no memory cgroup";
  const absl::StatusOr<std::unique_ptr<KernelBaseline>> made =
      KernelBaseline::Create({.swaps = true, .limited = true, .merges = true}, ByteCount::MiB(64));
  if (made.ok()) return "";
  const std::string why(made.status().message());
  // Others are at it. Anything else is a failure.
  return absl::StrContains(why, "another process has changed") || absl::StrContains(why, "memory of other programs")
             ? why
             : "";
}

}  // namespace quire
