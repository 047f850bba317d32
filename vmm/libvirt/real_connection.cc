#include <signal.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <string>
#include <thread>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "base/thread.h"
#include "vmm/libvirt/connection.h"
#include "vmm/libvirt/libvirt_library.h"

namespace quire {
namespace {

// A host that has not answered for 5 * 6 seconds is gone.
constexpr int kKeepAliveInterval = 5;  // seconds
constexpr unsigned kKeepAliveCount = 6;

constexpr ByteCount kMost = ByteCount::Bytes(std::numeric_limits<uint64_t>::max());

// What a guest says of itself may be any number.
ByteCount FromKiB(uint64_t n) { return n > (kMost.in_bytes() >> 10) ? kMost : ByteCount::KiB(n); }
uint64_t ToKiB(ByteCount size) { return size.in_bytes() >> 10; }

absl::StatusCode CodeOf(const virError& error) {
  switch (error.code) {
    case VIR_ERR_NO_CONNECT:
    case VIR_ERR_UNKNOWN_HOST:
    case VIR_ERR_RPC:
    case VIR_ERR_INVALID_CONN:
    case VIR_ERR_LIBSSH:
    case VIR_ERR_SSH:
      return absl::StatusCode::kUnavailable;
    case VIR_ERR_SYSTEM_ERROR:
      if (error.int1 == EACCES || error.int1 == EPERM) return absl::StatusCode::kPermissionDenied;
      return absl::StatusCode::kInternal;
    case VIR_ERR_OPERATION_DENIED:
    case VIR_ERR_ACCESS_DENIED:
    case VIR_ERR_AUTH_FAILED:
    case VIR_ERR_AUTH_CANCELLED:
    case VIR_ERR_AUTH_UNAVAILABLE:
      return absl::StatusCode::kPermissionDenied;
    case VIR_ERR_NO_SUPPORT:
    case VIR_ERR_OPERATION_UNSUPPORTED:
    case VIR_ERR_ARGUMENT_UNSUPPORTED:
    case VIR_ERR_CONFIG_UNSUPPORTED:
      return absl::StatusCode::kUnimplemented;
    case VIR_ERR_NO_DOMAIN:
      return absl::StatusCode::kNotFound;
    case VIR_ERR_OPERATION_INVALID:
      return absl::StatusCode::kFailedPrecondition;
    case VIR_ERR_INVALID_ARG:
    case VIR_ERR_XML_ERROR:
    case VIR_ERR_XML_DETAIL:
    case VIR_ERR_XML_INVALID_SCHEMA:
    case VIR_ERR_NO_NAME:
    case VIR_ERR_NO_OS:
    case VIR_ERR_OS_TYPE:
    case VIR_ERR_NO_KERNEL:
    case VIR_ERR_NO_ROOT:
    case VIR_ERR_NO_SOURCE:
    case VIR_ERR_NO_TARGET:
    case VIR_ERR_NO_DEVICE:
      return absl::StatusCode::kInvalidArgument;
    case VIR_ERR_DOM_EXIST:
      return absl::StatusCode::kAlreadyExists;
    case VIR_ERR_OPERATION_TIMEOUT:
    case VIR_ERR_AGENT_UNRESPONSIVE:
      return absl::StatusCode::kDeadlineExceeded;
    case VIR_ERR_NO_MEMORY:
      return absl::StatusCode::kResourceExhausted;
    default:
      return absl::StatusCode::kInternal;
  }
}

// What libvirt has last refused this thread, after what was attempted.
absl::Status LastError(const LibvirtLibrary& libvirt, absl::string_view attempt) {
  const virError* const error = libvirt.get_last_error();
  if (error == nullptr) return absl::InternalError(absl::StrCat("libvirt cannot ", attempt, ", and does not say why"));
  const absl::string_view message = error->message == nullptr ? "" : error->message;
  return absl::Status(CodeOf(*error),
                      absl::StrCat("libvirt cannot ", attempt, ": ",
                                   absl::StrReplaceAll(absl::StripTrailingAsciiWhitespace(message), {{"\n", " "}})));
}

// libvirt's event loop, which sends and awaits the signs of life of connections. None of this program's signals reach
// that thread.
void StartEventLoop(const LibvirtLibrary& libvirt) {
  if (libvirt.event_register_default_impl() != 0) return;  // connections have no signs of life then
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before);
  std::thread([&libvirt] {
    SetThreadName("quire-libvirt");
    while (libvirt.event_run_default_impl() == 0) {
    }
  }).detach();
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

DomainState ToDomainState(int state) {
  switch (state) {
    case VIR_DOMAIN_RUNNING:
      return DomainState::kRunning;
    case VIR_DOMAIN_BLOCKED:
      return DomainState::kBlocked;
    case VIR_DOMAIN_PAUSED:
      return DomainState::kPaused;
    case VIR_DOMAIN_SHUTDOWN:
      return DomainState::kShuttingDown;
    case VIR_DOMAIN_SHUTOFF:
      return DomainState::kShutOff;
    case VIR_DOMAIN_CRASHED:
      return DomainState::kCrashed;
    case VIR_DOMAIN_PMSUSPENDED:
      return DomainState::kSuspended;
    default:
      return DomainState::kNone;
  }
}

void SetStatistic(const virDomainMemoryStatStruct& from, DomainMemoryStats& stats) {
  switch (from.tag) {
    case VIR_DOMAIN_MEMORY_STAT_SWAP_IN:
      stats.swap_in = FromKiB(from.val);
      return;
    case VIR_DOMAIN_MEMORY_STAT_SWAP_OUT:
      stats.swap_out = FromKiB(from.val);
      return;
    case VIR_DOMAIN_MEMORY_STAT_MAJOR_FAULT:
      stats.major_faults = from.val;
      return;
    case VIR_DOMAIN_MEMORY_STAT_MINOR_FAULT:
      stats.minor_faults = from.val;
      return;
    case VIR_DOMAIN_MEMORY_STAT_UNUSED:
      stats.unused = FromKiB(from.val);
      return;
    case VIR_DOMAIN_MEMORY_STAT_AVAILABLE:
      stats.available = FromKiB(from.val);
      return;
    case VIR_DOMAIN_MEMORY_STAT_USABLE:
      stats.usable = FromKiB(from.val);
      return;
    case VIR_DOMAIN_MEMORY_STAT_DISK_CACHES:
      stats.disk_caches = FromKiB(from.val);
      return;
    case VIR_DOMAIN_MEMORY_STAT_ACTUAL_BALLOON:
      stats.balloon = FromKiB(from.val);
      return;
    case VIR_DOMAIN_MEMORY_STAT_RSS:
      stats.rss = FromKiB(from.val);
      return;
    case VIR_DOMAIN_MEMORY_STAT_LAST_UPDATE:
      // 0: it never has.
      if (from.val != 0 && from.val <= uint64_t{1} << 40) stats.updated = absl::FromUnixSeconds(from.val);
      return;
    default:
      return;
  }
}

// The value of a parameter that is a number of whichever width; nothing: it is none.
std::optional<uint64_t> NumberOf(const virTypedParameter& parameter) {
  switch (parameter.type) {
    case VIR_TYPED_PARAM_INT:
      return parameter.value.i < 0 ? std::nullopt : std::optional<uint64_t>(parameter.value.i);
    case VIR_TYPED_PARAM_UINT:
      return parameter.value.ui;
    case VIR_TYPED_PARAM_LLONG:
      return parameter.value.l < 0 ? std::nullopt : std::optional<uint64_t>(parameter.value.l);
    case VIR_TYPED_PARAM_ULLONG:
      return parameter.value.ul;
    default:
      return std::nullopt;
  }
}

class Parameters {
 public:
  explicit Parameters(int count) : all_(count) {}

  void AddUint(const char* name, uint64_t value) {
    virTypedParameter& parameter = Add(name, VIR_TYPED_PARAM_UINT);
    parameter.value.ui = static_cast<unsigned>(std::min<uint64_t>(value, std::numeric_limits<unsigned>::max()));
  }
  void AddUllong(const char* name, uint64_t value) { Add(name, VIR_TYPED_PARAM_ULLONG).value.ul = value; }

  std::optional<uint64_t> Find(absl::string_view name) const {
    for (const virTypedParameter& parameter : all_) {
      if (name == parameter.field) return NumberOf(parameter);
    }
    return std::nullopt;
  }

  virTypedParameterPtr data() { return all_.data(); }
  int size() const { return static_cast<int>(all_.size()); }
  void resize(int count) { all_.resize(count); }

 private:
  virTypedParameter& Add(absl::string_view name, int type) {
    virTypedParameter& parameter = all_.emplace_back();
    name.copy(parameter.field, sizeof(parameter.field) - 1);
    parameter.type = type;
    return parameter;
  }

  std::vector<virTypedParameter> all_;  // zeroes at first
};

// A text that libvirt has allocated.
std::string Take(char* text) {
  std::string taken = text;
  std::free(text);
  return taken;
}

// There is no call for it: it stands in the description, <memballoon><stats period='5'/>, which libvirt always writes
// in this form, with the devices after all that is somebody else's text.
int PeriodIn(absl::string_view xml) {
  constexpr absl::string_view kStats = "<stats period='";
  const size_t balloon = xml.rfind("<memballoon ");
  if (balloon == absl::string_view::npos) return 0;
  xml.remove_prefix(balloon);
  const size_t end = xml.find("</memballoon>"), stats = xml.find(kStats);
  if (stats == absl::string_view::npos || end == absl::string_view::npos || stats > end) return 0;
  xml.remove_prefix(stats + kStats.size());
  int period = 0;
  return absl::SimpleAtoi(xml.substr(0, xml.find('\'')), &period) ? period : 0;
}

class RealConnection final : public LibvirtConnection {
 public:
  RealConnection(const LibvirtLibrary& libvirt, virConnectPtr connection)
      : libvirt_(libvirt), connection_(connection) {}
  ~RealConnection() override { libvirt_.connect_close(connection_); }
  RealConnection(const RealConnection&) = delete;
  RealConnection& operator=(const RealConnection&) = delete;

  bool IsAlive() override { return libvirt_.connect_is_alive(connection_) == 1; }
  absl::StatusOr<std::string> Uri() override { return Text(libvirt_.connect_get_uri(connection_), "say its address"); }
  absl::StatusOr<std::string> HostName() override {
    return Text(libvirt_.connect_get_hostname(connection_), "say the host's name");
  }
  absl::StatusOr<std::string> Capabilities() override {
    return Text(libvirt_.connect_get_capabilities(connection_), "say what the host can do");
  }

  absl::StatusOr<std::vector<DomainSummary>> ListDomains(DomainSet set) override;
  absl::StatusOr<DomainSummary> FindDomain(absl::string_view name_or_uuid) override;
  absl::StatusOr<DomainSummary> Domain(const std::string& domain) override;
  absl::StatusOr<std::string> DomainXml(const std::string& domain, XmlOf which) override;
  absl::StatusOr<DomainMemory> GetMemory(const std::string& domain) override;
  absl::StatusOr<DomainActivity> GetActivity(const std::string& domain) override;
  absl::StatusOr<DomainMemoryStats> GetMemoryStats(const std::string& domain) override;
  absl::StatusOr<int> GetMemoryStatsPeriod(const std::string& domain) override;
  absl::Status SetMemoryStatsPeriod(const std::string& domain, int seconds) override;
  absl::Status SetMemory(const std::string& domain, ByteCount memory) override;
  absl::StatusOr<MemoryTune> GetMemoryTune(const std::string& domain) override;
  absl::Status SetMemoryTune(const std::string& domain, const MemoryTune& tune) override;
  absl::Status RemoveSoftLimit(const std::string& domain) override;
  absl::StatusOr<DomainSummary> Define(absl::string_view xml) override;
  absl::StatusOr<DomainSummary> CreateTransient(absl::string_view xml) override;
  absl::StatusOr<DomainSummary> CreatePaused(absl::string_view xml) override;
  absl::Status Resume(const std::string& domain) override;
  absl::Status Start(const std::string& domain) override;
  absl::Status Shutdown(const std::string& domain) override;
  absl::Status Destroy(const std::string& domain) override;
  absl::Status Undefine(const std::string& domain) override;
  absl::StatusOr<NodeInfo> GetNodeInfo() override;
  absl::StatusOr<NodeMemory> GetNodeMemory() override;
  absl::StatusOr<NodeKsm> GetNodeKsm() override;
  absl::Status SetNodeKsm(const NodeKsm& ksm) override;

 private:
  struct FreeDomain {
    const LibvirtLibrary* libvirt;
    void operator()(virDomainPtr domain) const { libvirt->domain_free(domain); }
  };
  using DomainHandle = std::unique_ptr<virDomain, FreeDomain>;

  // Of the call that this thread has just made.
  absl::Status Error(absl::string_view attempt) {
    absl::Status status = LastError(libvirt_, attempt);
    return IsAlive() ? status : absl::UnavailableError(status.message());
  }
  // The same of a call that returns less than zero if it fails.
  absl::Status StatusOf(int result, absl::string_view attempt) {
    return result < 0 ? Error(attempt) : absl::OkStatus();
  }
  absl::StatusOr<std::string> Text(char* text, absl::string_view attempt) {
    return text == nullptr ? absl::StatusOr<std::string>(Error(attempt)) : Take(text);
  }
  DomainHandle Own(virDomainPtr domain) { return DomainHandle(domain, FreeDomain{&libvirt_}); }
  absl::StatusOr<DomainHandle> Find(const std::string& uuid);
  absl::StatusOr<DomainSummary> Summarize(virDomainPtr domain);
  absl::StatusOr<DomainSummary> SummarizeNew(virDomainPtr domain, absl::string_view attempt);
  // Finds the domain and calls `call` with it, which returns less than zero if it fails; `attempt` ends with what the
  // domain's name is put after.
  template <class Call>
  absl::Status With(const std::string& uuid, absl::string_view attempt, Call call) {
    const absl::StatusOr<DomainHandle> domain = Find(uuid);
    if (!domain.ok()) return domain.status();
    // Asked for before the call: libvirt forgets the call's error when it is asked for anything else.
    const std::string named = absl::StrCat(attempt, " domain ", NameOf(domain->get()));
    return StatusOf(call(domain->get()), named);
  }
  std::string NameOf(virDomainPtr domain) {
    const char* const name = libvirt_.domain_get_name(domain);
    return name == nullptr ? "" : name;
  }
  absl::Status SetMemoryParameters(const std::string& domain, Parameters& parameters);

  const LibvirtLibrary& libvirt_;
  const virConnectPtr connection_;
};

absl::StatusOr<RealConnection::DomainHandle> RealConnection::Find(const std::string& uuid) {
  DomainHandle domain = Own(libvirt_.domain_lookup_by_uuid_string(connection_, uuid.c_str()));
  if (domain == nullptr) return Error(absl::StrCat("find the domain ", uuid));
  return domain;
}

absl::StatusOr<DomainSummary> RealConnection::Summarize(virDomainPtr domain) {
  DomainSummary summary = {.name = NameOf(domain)};
  char uuid[VIR_UUID_STRING_BUFLEN] = {};
  int state = 0;
  if (libvirt_.domain_get_uuid_string(domain, uuid) != 0 ||
      libvirt_.domain_get_state(domain, &state, nullptr, 0) != 0) {
    return Error(absl::StrCat("say the state of domain ", summary.name));
  }
  summary.uuid = uuid;
  summary.state = ToDomainState(state);
  if (const unsigned id = libvirt_.domain_get_id(domain); id != static_cast<unsigned>(-1)) {
    summary.id = static_cast<int>(id);
  }
  return summary;
}

absl::StatusOr<std::vector<DomainSummary>> RealConnection::ListDomains(DomainSet set) {
  virDomainPtr* all = nullptr;
  const unsigned flags = set == DomainSet::kActive ? VIR_CONNECT_LIST_DOMAINS_ACTIVE : 0;
  const int count = libvirt_.connect_list_all_domains(connection_, &all, flags);
  if (count < 0) return Error("list the domains");
  std::vector<DomainHandle> domains;
  for (int i = 0; i < count; ++i) domains.push_back(Own(all[i]));
  std::free(all);
  std::vector<DomainSummary> summaries;
  for (const DomainHandle& domain : domains) {
    absl::StatusOr<DomainSummary> summary = Summarize(domain.get());
    if (absl::IsNotFound(summary.status())) continue;
    if (!summary.ok()) return summary.status();
    if (set == DomainSet::kAll || summary->active()) summaries.push_back(*std::move(summary));
  }
  std::sort(summaries.begin(), summaries.end(),
            [](const DomainSummary& a, const DomainSummary& b) { return a.name < b.name; });
  return summaries;
}

absl::StatusOr<DomainSummary> RealConnection::FindDomain(absl::string_view name_or_uuid) {
  const std::string text(name_or_uuid);
  DomainHandle domain = Own(libvirt_.domain_lookup_by_name(connection_, text.c_str()));
  absl::Status by_name = domain == nullptr ? Error(absl::StrCat("find the domain ", text)) : absl::OkStatus();
  if (domain == nullptr) domain = Own(libvirt_.domain_lookup_by_uuid_string(connection_, text.c_str()));
  if (domain == nullptr) return by_name;
  return Summarize(domain.get());
}

absl::StatusOr<DomainSummary> RealConnection::Domain(const std::string& domain) {
  const absl::StatusOr<DomainHandle> found = Find(domain);
  return found.ok() ? Summarize(found->get()) : found.status();
}

absl::StatusOr<std::string> RealConnection::DomainXml(const std::string& domain, XmlOf which) {
  const absl::StatusOr<DomainHandle> found = Find(domain);
  if (!found.ok()) return found.status();
  const unsigned flags = which == XmlOf::kNextStart ? VIR_DOMAIN_XML_INACTIVE : 0;
  const std::string attempt = absl::StrCat("describe domain ", NameOf(found->get()));
  return Text(libvirt_.domain_get_xml_desc(found->get(), flags), attempt);
}

absl::StatusOr<DomainMemory> RealConnection::GetMemory(const std::string& domain) {
  virDomainInfo info = {};
  const absl::Status status = With(domain, "say how much memory is that of",
                                   [&](virDomainPtr found) { return libvirt_.domain_get_info(found, &info); });
  if (!status.ok()) return status;
  return DomainMemory{.maximum = FromKiB(info.maxMem), .current = FromKiB(info.memory)};
}

absl::StatusOr<DomainActivity> RealConnection::GetActivity(const std::string& domain) {
  virDomainInfo info = {};
  const absl::Status status =
      With(domain, "say what is done by", [&](virDomainPtr found) { return libvirt_.domain_get_info(found, &info); });
  if (!status.ok()) return status;
  return DomainActivity{.state = ToDomainState(info.state), .cpu_time = absl::Nanoseconds(info.cpuTime)};
}

absl::StatusOr<DomainMemoryStats> RealConnection::GetMemoryStats(const std::string& domain) {
  virDomainMemoryStatStruct all[VIR_DOMAIN_MEMORY_STAT_NR];
  int count = 0;
  const absl::Status status = With(domain, "read the memory statistics of", [&](virDomainPtr found) {
    return count = libvirt_.domain_memory_stats(found, all, VIR_DOMAIN_MEMORY_STAT_NR, 0);
  });
  if (!status.ok()) return status;
  DomainMemoryStats stats;
  for (int i = 0; i < count; ++i) SetStatistic(all[i], stats);
  return stats;
}

absl::StatusOr<int> RealConnection::GetMemoryStatsPeriod(const std::string& domain) {
  const absl::StatusOr<std::string> xml = DomainXml(domain, XmlOf::kNow);
  if (!xml.ok()) return xml.status();
  return PeriodIn(*xml);
}

absl::Status RealConnection::SetMemoryStatsPeriod(const std::string& domain, int seconds) {
  return With(domain, "set the period of the memory statistics of", [&](virDomainPtr found) {
    return libvirt_.domain_set_memory_stats_period(found, seconds, VIR_DOMAIN_AFFECT_LIVE);
  });
}

absl::Status RealConnection::SetMemory(const std::string& domain, ByteCount memory) {
  return With(domain, absl::StrCat("set the memory to ", ToKiB(memory), " KiB of"), [&](virDomainPtr found) {
    return libvirt_.domain_set_memory_flags(found, ToKiB(memory), VIR_DOMAIN_AFFECT_LIVE);
  });
}

absl::StatusOr<MemoryTune> RealConnection::GetMemoryTune(const std::string& domain) {
  Parameters parameters(0);
  const absl::Status status = With(domain, "read the memory limits of", [&](virDomainPtr found) {
    int count = 0;  // asks how many there are
    int result = libvirt_.domain_get_memory_parameters(found, nullptr, &count, VIR_DOMAIN_AFFECT_LIVE);
    if (result < 0) return result;
    parameters.resize(count);
    result = libvirt_.domain_get_memory_parameters(found, parameters.data(), &count, VIR_DOMAIN_AFFECT_LIVE);
    parameters.resize(result < 0 ? 0 : count);
    return result;
  });
  if (!status.ok()) return status;
  const auto limit = [&](const char* name) -> std::optional<ByteCount> {
    const std::optional<uint64_t> value = parameters.Find(name);
    if (!value || *value >= VIR_DOMAIN_MEMORY_PARAM_UNLIMITED) return std::nullopt;
    return FromKiB(*value);
  };
  return MemoryTune{.hard_limit = limit(VIR_DOMAIN_MEMORY_HARD_LIMIT),
                    .soft_limit = limit(VIR_DOMAIN_MEMORY_SOFT_LIMIT),
                    .swap_hard_limit = limit(VIR_DOMAIN_MEMORY_SWAP_HARD_LIMIT)};
}

absl::Status RealConnection::SetMemoryParameters(const std::string& domain, Parameters& parameters) {
  return With(domain, "set the memory limits of", [&](virDomainPtr found) {
    return libvirt_.domain_set_memory_parameters(found, parameters.data(), parameters.size(), VIR_DOMAIN_AFFECT_LIVE);
  });
}

absl::Status RealConnection::SetMemoryTune(const std::string& domain, const MemoryTune& tune) {
  Parameters parameters(0);
  if (tune.hard_limit) parameters.AddUllong(VIR_DOMAIN_MEMORY_HARD_LIMIT, ToKiB(*tune.hard_limit));
  if (tune.soft_limit) parameters.AddUllong(VIR_DOMAIN_MEMORY_SOFT_LIMIT, ToKiB(*tune.soft_limit));
  if (tune.swap_hard_limit) parameters.AddUllong(VIR_DOMAIN_MEMORY_SWAP_HARD_LIMIT, ToKiB(*tune.swap_hard_limit));
  return SetMemoryParameters(domain, parameters);
}

absl::Status RealConnection::RemoveSoftLimit(const std::string& domain) {
  Parameters parameters(0);
  parameters.AddUllong(VIR_DOMAIN_MEMORY_SOFT_LIMIT, VIR_DOMAIN_MEMORY_PARAM_UNLIMITED);
  return SetMemoryParameters(domain, parameters);
}

absl::StatusOr<DomainSummary> RealConnection::SummarizeNew(virDomainPtr domain, absl::string_view attempt) {
  const DomainHandle owned = Own(domain);
  return owned == nullptr ? Error(attempt) : Summarize(owned.get());
}

absl::StatusOr<DomainSummary> RealConnection::Define(absl::string_view xml) {
  return SummarizeNew(libvirt_.domain_define_xml_flags(connection_, std::string(xml).c_str(), 0), "define the domain");
}

absl::StatusOr<DomainSummary> RealConnection::CreateTransient(absl::string_view xml) {
  return SummarizeNew(libvirt_.domain_create_xml(connection_, std::string(xml).c_str(), 0), "start the domain");
}

absl::StatusOr<DomainSummary> RealConnection::CreatePaused(absl::string_view xml) {
  return SummarizeNew(libvirt_.domain_create_xml(connection_, std::string(xml).c_str(),
                                                 VIR_DOMAIN_START_PAUSED | VIR_DOMAIN_START_AUTODESTROY),
                      "start the domain");
}

absl::Status RealConnection::Resume(const std::string& domain) {
  return With(domain, "resume", [&](virDomainPtr found) { return libvirt_.domain_resume(found); });
}

absl::Status RealConnection::Start(const std::string& domain) {
  return With(domain, "start", [&](virDomainPtr found) { return libvirt_.domain_create(found); });
}

absl::Status RealConnection::Shutdown(const std::string& domain) {
  return With(domain, "shut down", [&](virDomainPtr found) { return libvirt_.domain_shutdown(found); });
}

absl::Status RealConnection::Destroy(const std::string& domain) {
  return With(domain, "end", [&](virDomainPtr found) { return libvirt_.domain_destroy(found); });
}

absl::Status RealConnection::Undefine(const std::string& domain) {
  constexpr unsigned kFlags = VIR_DOMAIN_UNDEFINE_MANAGED_SAVE | VIR_DOMAIN_UNDEFINE_SNAPSHOTS_METADATA;
  return With(domain, "undefine", [&](virDomainPtr found) { return libvirt_.domain_undefine_flags(found, kFlags); });
}

absl::StatusOr<NodeInfo> RealConnection::GetNodeInfo() {
  virNodeInfo info = {};
  if (libvirt_.node_get_info(connection_, &info) < 0) return Error("say what the host is");
  return NodeInfo{.model = std::string(info.model, strnlen(info.model, sizeof(info.model))),
                  .memory = FromKiB(info.memory),
                  .cpus = info.cpus};
}

absl::StatusOr<NodeMemory> RealConnection::GetNodeMemory() {
  constexpr absl::string_view kAttempt = "say how the host's memory is used";
  int count = 0;  // asks how many there are
  if (libvirt_.node_get_memory_stats(connection_, VIR_NODE_MEMORY_STATS_ALL_CELLS, nullptr, &count, 0) < 0) {
    return Error(kAttempt);
  }
  std::vector<virNodeMemoryStats> all(count);
  if (libvirt_.node_get_memory_stats(connection_, VIR_NODE_MEMORY_STATS_ALL_CELLS, all.data(), &count, 0) < 0) {
    return Error(kAttempt);
  }
  const auto find = [&](absl::string_view name) {
    for (const virNodeMemoryStats& statistic : all) {
      if (name == statistic.field) return FromKiB(statistic.value);
    }
    return ByteCount();
  };
  return NodeMemory{.total = find(VIR_NODE_MEMORY_STATS_TOTAL),
                    .free = find(VIR_NODE_MEMORY_STATS_FREE),
                    .buffers = find(VIR_NODE_MEMORY_STATS_BUFFERS),
                    .cached = find(VIR_NODE_MEMORY_STATS_CACHED)};
}

absl::StatusOr<NodeKsm> RealConnection::GetNodeKsm() {
  constexpr absl::string_view kAttempt = "read the settings of the host's same-page merging (KSM)";
  int count = 0;  // asks how many there are
  if (libvirt_.node_get_memory_parameters(connection_, nullptr, &count, 0) < 0) return Error(kAttempt);
  Parameters parameters(count);
  if (libvirt_.node_get_memory_parameters(connection_, parameters.data(), &count, 0) < 0) return Error(kAttempt);
  NodeKsm ksm = {.pages_to_scan = parameters.Find(VIR_NODE_MEMORY_SHARED_PAGES_TO_SCAN),
                 .sleep_millisecs = parameters.Find(VIR_NODE_MEMORY_SHARED_SLEEP_MILLISECS),
                 .pages_shared = parameters.Find(VIR_NODE_MEMORY_SHARED_PAGES_SHARED),
                 .pages_sharing = parameters.Find(VIR_NODE_MEMORY_SHARED_PAGES_SHARING),
                 .pages_unshared = parameters.Find(VIR_NODE_MEMORY_SHARED_PAGES_UNSHARED),
                 .pages_volatile = parameters.Find(VIR_NODE_MEMORY_SHARED_PAGES_VOLATILE),
                 .full_scans = parameters.Find(VIR_NODE_MEMORY_SHARED_FULL_SCANS)};
  if (const auto merge = parameters.Find(VIR_NODE_MEMORY_SHARED_MERGE_ACROSS_NODES))
    ksm.merge_across_nodes = *merge != 0;
  return ksm;
}

absl::Status RealConnection::SetNodeKsm(const NodeKsm& ksm) {
  Parameters parameters(0);
  if (ksm.pages_to_scan) parameters.AddUint(VIR_NODE_MEMORY_SHARED_PAGES_TO_SCAN, *ksm.pages_to_scan);
  if (ksm.sleep_millisecs) parameters.AddUint(VIR_NODE_MEMORY_SHARED_SLEEP_MILLISECS, *ksm.sleep_millisecs);
  if (ksm.merge_across_nodes) parameters.AddUint(VIR_NODE_MEMORY_SHARED_MERGE_ACROSS_NODES, *ksm.merge_across_nodes);
  return StatusOf(libvirt_.node_set_memory_parameters(connection_, parameters.data(), parameters.size(), 0),
                  "set the host's same-page merging (KSM)");
}

// Errors at the beginning that are no one's fault but the way's are those of a connection that is not there.
absl::Status CannotConnect(const LibvirtLibrary& libvirt, const std::string& uri) {
  absl::Status status = LastError(libvirt, absl::StrCat("connect to ", uri));
  return absl::IsInternal(status) ? absl::UnavailableError(status.message()) : status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<LibvirtConnection>> OpenLibvirt(const std::string& uri, LibvirtAccess access) {
  const absl::StatusOr<const LibvirtLibrary*> library = LoadLibvirtLibrary();
  if (!library.ok()) return library.status();
  const LibvirtLibrary& libvirt = **library;
  static const bool event_loop = [&] { return StartEventLoop(libvirt), true; }();
  (void)event_loop;
  const virConnectPtr connection =
      libvirt.connect_open_auth(uri.c_str(), nullptr, access == LibvirtAccess::kReadOnly ? VIR_CONNECT_RO : 0);
  if (connection == nullptr) return CannotConnect(libvirt, uri);
  // Drivers that are part of this process, such as test:///, have none and need none.
  libvirt.connect_set_keep_alive(connection, kKeepAliveInterval, kKeepAliveCount);
  return std::make_unique<RealConnection>(libvirt, connection);
}

}  // namespace quire
