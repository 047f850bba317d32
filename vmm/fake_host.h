// Any machine, for tests.
#ifndef QUIRE_VMM_FAKE_HOST_H_
#define QUIRE_VMM_FAKE_HOST_H_

#include <map>
#include <optional>
#include <string>

#include "vmm/host.h"

namespace quire {

struct FakeHost : public Host {
  std::optional<std::string> ReadFile(const std::string& path) const override {
    const auto file = files.find(path);
    return file == files.end() ? std::nullopt : std::optional<std::string>(file->second);
  }
  bool Exists(const std::string& path) const override { return files.contains(path); }
  std::string KernelLog() const override { return log; }
  int Cpus() const override { return cpus; }
  int UserId() const override { return user; }
  KvmOffer ProbeKvm() const override { return kvm; }
  UserfaultfdOffer ProbeUserfaultfd() const override { return userfaultfd; }
  PoolOffer ProbePool() const override { return pool; }

  std::map<std::string, std::string> files;
  std::string log;
  int cpus = 8;
  int user = 0;
  KvmOffer kvm = {.api_version = 12};
  UserfaultfdOffer userfaultfd = {.features = ~uint64_t{0}};
  PoolOffer pool = {.tmpfs = true, .huge = true};
};

// A Debian 12 server with an Intel CPU, all that guests can use, and root.
inline FakeHost GoodHost() {
  FakeHost host;
  host.files = {
      {"/proc/sys/kernel/osrelease", "6.12.30-cloud-amd64\n"},
      {"/proc/meminfo",
       "MemTotal:       16384000 kB\nMemFree:         9000000 kB\nMemAvailable:   12288000 kB\n"
       "SwapTotal:             0 kB\n"},
      {"/proc/self/cgroup", "0::/user.slice/session.scope\n"},
      {"/proc/self/status", "Name:\tquire\nCapEff:\t000001ffffffffff\n"},
      {"/proc/cpuinfo", "processor\t: 0\nflags\t\t: fpu vmx sse2\n"},
      {"/proc/sys/vm/max_map_count", "65530\n"},
      {"/sys/module/kvm_intel/parameters/ept", "Y\n"},
      {"/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"},
      {"/sys/kernel/mm/transparent_hugepage/shmem_enabled", "always within_size advise [never] deny force\n"},
      {"/sys/kernel/mm/transparent_hugepage/defrag", "always defer defer+madvise [madvise] never\n"},
  };
  return host;
}

}  // namespace quire

#endif  // QUIRE_VMM_FAKE_HOST_H_
