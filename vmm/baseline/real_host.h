// This host, for tests that compare it before and after.
#ifndef QUIRE_VMM_BASELINE_REAL_HOST_H_
#define QUIRE_VMM_BASELINE_REAL_HOST_H_

#include <map>
#include <string>

namespace quire {

// What no test is to change, by its path; with the names of all zram devices and of this program's cgroups.
std::map<std::string, std::string> HostSettingsNow();

// Why the host kernel's side cannot be had here; empty if it can. From a process without other threads.
std::string ObstacleToBaseline();

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_REAL_HOST_H_
