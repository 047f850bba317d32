// A host with domains that is not there, for tests of what talks to libvirt.
#ifndef QUIRE_VMM_LIBVIRT_FAKE_CONNECTION_H_
#define QUIRE_VMM_LIBVIRT_FAKE_CONNECTION_H_

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "vmm/libvirt/connection.h"

namespace quire {

struct FakeDomain {
  DomainSummary summary = {};
  DomainMemory memory = {};
  DomainMemoryStats stats = {};
  MemoryTune tune = {};
  int stats_period = 0;
  absl::Status set_memory = {};  // what setting its memory comes to; where it is well, its balloon follows at once
};

// What all connections to it have in common, and outlived by none. Belongs to one thread.
struct FakeLibvirtHost {
  std::map<std::string, FakeDomain> domains = {};  // by UUID, which is "uuid-of-" and the name
  NodeMemory memory = {};
  NodeKsm ksm = {};
  absl::Status ksm_status = {};
  bool up = true;                      // false: connections break, and there are no new ones
  int opened = 0;                      // connections
  std::vector<std::string> log = {};   // what was changed: "web: memory 1024 MiB"
  std::function<void()> at_list = {};  // called before domains are listed

  FakeDomain& Add(const std::string& name, ByteCount maximum, int id = 1) {
    const std::string uuid = "uuid-of-" + name;
    return domains[uuid] = FakeDomain{.summary = {.uuid = uuid, .name = name, .id = id, .state = DomainState::kRunning},
                                      .memory = {.maximum = maximum, .current = maximum}};
  }
  FakeDomain& domain(const std::string& name) { return domains.at("uuid-of-" + name); }
};

class FakeConnection final : public LibvirtConnection {
 public:
  explicit FakeConnection(FakeLibvirtHost& host) : host_(host), generation_(++host.opened) {}

  // For what opens connections.
  static absl::StatusOr<std::unique_ptr<LibvirtConnection>> Open(FakeLibvirtHost& host) {
    if (!host.up) return absl::UnavailableError("libvirt cannot connect: nobody is there");
    return std::make_unique<FakeConnection>(host);
  }

  bool IsAlive() override { return alive_ = alive_ && host_.up && generation_ == host_.opened; }
  absl::StatusOr<std::string> Uri() override { return std::string("fake:///system"); }
  absl::StatusOr<std::string> HostName() override { return std::string("fake"); }
  absl::StatusOr<std::string> Capabilities() override { return std::string("<capabilities/>"); }

  absl::StatusOr<std::vector<DomainSummary>> ListDomains(DomainSet set) override {
    if (host_.at_list) host_.at_list();
    if (!IsAlive()) return Lost();
    std::vector<DomainSummary> all;
    for (const auto& [uuid, domain] : host_.domains) {
      if (set == DomainSet::kAll || domain.summary.active()) all.push_back(domain.summary);
    }
    return all;
  }
  absl::StatusOr<DomainSummary> FindDomain(absl::string_view name) override {
    const absl::StatusOr<FakeDomain*> by_uuid = Find(std::string(name));
    const absl::StatusOr<FakeDomain*> found = by_uuid.ok() ? by_uuid : Find(absl::StrCat("uuid-of-", name));
    return found.ok() ? (*found)->summary : absl::StatusOr<DomainSummary>(found.status());
  }
  absl::StatusOr<DomainSummary> Domain(const std::string& uuid) override {
    const absl::StatusOr<FakeDomain*> found = Find(uuid);
    return found.ok() ? (*found)->summary : absl::StatusOr<DomainSummary>(found.status());
  }
  absl::StatusOr<std::string> DomainXml(const std::string& uuid, XmlOf) override {
    const absl::StatusOr<FakeDomain*> found = Find(uuid);
    if (!found.ok()) return found.status();
    return absl::StrCat("<domain><name>", (*found)->summary.name, "</name></domain>");
  }

  absl::StatusOr<DomainMemory> GetMemory(const std::string& uuid) override {
    const absl::StatusOr<FakeDomain*> found = Find(uuid);
    return found.ok() ? (*found)->memory : absl::StatusOr<DomainMemory>(found.status());
  }
  absl::StatusOr<DomainActivity> GetActivity(const std::string& uuid) override {
    const absl::StatusOr<FakeDomain*> found = Find(uuid);
    if (!found.ok()) return found.status();
    return DomainActivity{.state = (*found)->summary.state, .cpu_time = absl::ZeroDuration()};
  }
  absl::StatusOr<DomainMemoryStats> GetMemoryStats(const std::string& uuid) override {
    const absl::StatusOr<FakeDomain*> found = Find(uuid);
    return found.ok() ? (*found)->stats : absl::StatusOr<DomainMemoryStats>(found.status());
  }
  absl::StatusOr<int> GetMemoryStatsPeriod(const std::string& uuid) override {
    const absl::StatusOr<FakeDomain*> found = Find(uuid);
    return found.ok() ? (*found)->stats_period : absl::StatusOr<int>(found.status());
  }
  absl::Status SetMemoryStatsPeriod(const std::string& uuid, int seconds) override {
    return Change(uuid, absl::StrCat("period ", seconds), [&](FakeDomain& domain) { domain.stats_period = seconds; });
  }
  absl::Status SetMemory(const std::string& uuid, ByteCount memory) override {
    const absl::StatusOr<FakeDomain*> found = Find(uuid);
    if (found.ok() && !(*found)->set_memory.ok()) return (*found)->set_memory;
    return Change(uuid, absl::StrCat("memory ", memory.in_mib(), " MiB"),
                  [&](FakeDomain& domain) { domain.memory.current = memory; });
  }
  absl::StatusOr<MemoryTune> GetMemoryTune(const std::string& uuid) override {
    const absl::StatusOr<FakeDomain*> found = Find(uuid);
    return found.ok() ? (*found)->tune : absl::StatusOr<MemoryTune>(found.status());
  }
  absl::Status SetMemoryTune(const std::string& uuid, const MemoryTune& tune) override {
    return Change(uuid, "limits", [&](FakeDomain& domain) {
      if (tune.hard_limit) domain.tune.hard_limit = tune.hard_limit;
      if (tune.soft_limit) domain.tune.soft_limit = tune.soft_limit;
      if (tune.swap_hard_limit) domain.tune.swap_hard_limit = tune.swap_hard_limit;
    });
  }
  absl::Status RemoveSoftLimit(const std::string& uuid) override {
    return Change(uuid, "no soft limit", [&](FakeDomain& domain) { domain.tune.soft_limit.reset(); });
  }

  absl::StatusOr<DomainSummary> Define(absl::string_view) override { return absl::UnimplementedError("define"); }
  absl::StatusOr<DomainSummary> CreateTransient(absl::string_view) override {
    return absl::UnimplementedError("create");
  }
  absl::StatusOr<DomainSummary> CreatePaused(absl::string_view) override { return absl::UnimplementedError("create"); }
  absl::Status Resume(const std::string&) override { return absl::UnimplementedError("resume"); }
  absl::Status Start(const std::string&) override { return absl::UnimplementedError("start"); }
  absl::Status Shutdown(const std::string&) override { return absl::UnimplementedError("shut down"); }
  absl::Status Destroy(const std::string&) override { return absl::UnimplementedError("destroy"); }
  absl::Status Undefine(const std::string&) override { return absl::UnimplementedError("undefine"); }

  absl::StatusOr<NodeInfo> GetNodeInfo() override { return NodeInfo{.memory = host_.memory.total}; }
  absl::StatusOr<NodeMemory> GetNodeMemory() override {
    return IsAlive() ? absl::StatusOr<NodeMemory>(host_.memory) : Lost();
  }
  absl::StatusOr<NodeKsm> GetNodeKsm() override {
    if (!IsAlive()) return Lost();
    return host_.ksm_status.ok() ? absl::StatusOr<NodeKsm>(host_.ksm) : host_.ksm_status;
  }
  absl::Status SetNodeKsm(const NodeKsm& ksm) override {
    if (!IsAlive()) return Lost();
    if (ksm.pages_to_scan) host_.ksm.pages_to_scan = ksm.pages_to_scan;
    if (ksm.sleep_millisecs) host_.ksm.sleep_millisecs = ksm.sleep_millisecs;
    host_.log.push_back("ksm");
    return absl::OkStatus();
  }

 private:
  static absl::Status Lost() { return absl::UnavailableError("the connection is gone"); }
  absl::StatusOr<FakeDomain*> Find(const std::string& uuid) {
    if (!IsAlive()) return Lost();
    const auto found = host_.domains.find(uuid);
    if (found == host_.domains.end()) return absl::NotFoundError(absl::StrCat("no domain ", uuid));
    return &found->second;
  }
  template <class Work>
  absl::Status Change(const std::string& uuid, const std::string& what, Work work) {
    const absl::StatusOr<FakeDomain*> found = Find(uuid);
    if (!found.ok()) return found.status();
    work(**found);
    host_.log.push_back(absl::StrCat((*found)->summary.name, ": ", what));
    return absl::OkStatus();
  }

  FakeLibvirtHost& host_;
  const int generation_;
  bool alive_ = true;
};

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_FAKE_CONNECTION_H_
