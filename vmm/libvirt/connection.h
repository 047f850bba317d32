// A connection to libvirt: what is asked of a host and its domains, and changed there, with errors as absl::Status.
//
// An interface, so that tests can have a host of their own (fake_connection.h), and so that nothing else needs
// libvirt's headers. The calls are those of <libvirt/libvirt.h>, and so is what each of them means where nothing is
// said here.
#ifndef QUIRE_VMM_LIBVIRT_CONNECTION_H_
#define QUIRE_VMM_LIBVIRT_CONNECTION_H_

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/time/time.h"
#include "base/units.h"

namespace quire {

enum class DomainState : uint8_t {
  kNone,
  kRunning,
  kBlocked,
  kPaused,
  kShuttingDown,
  kShutOff,
  kCrashed,
  kSuspended,
};
absl::string_view Name(DomainState state);  // as virsh says it: "running", "shut off"

struct DomainSummary {
  std::string uuid = {};
  std::string name = {};
  std::optional<int> id = {};  // of a domain that is active; another one after each start
  DomainState state = DomainState::kNone;
  bool active() const { return id.has_value(); }
};

// What virDomainMemoryStats gives; what it does not is nothing. All but `balloon`, `rss` and `updated` is what the
// guest says of itself, and may be anything.
struct DomainMemoryStats {
  std::optional<ByteCount> swap_in = {};   // since the guest was started
  std::optional<ByteCount> swap_out = {};  // the same
  std::optional<uint64_t> major_faults = {};
  std::optional<uint64_t> minor_faults = {};
  std::optional<ByteCount> unused = {};       // MemFree of a Linux guest
  std::optional<ByteCount> available = {};    // MemTotal
  std::optional<ByteCount> usable = {};       // MemAvailable
  std::optional<ByteCount> disk_caches = {};  // what can be had back without I/O
  std::optional<ByteCount> balloon = {};      // the guest's memory, less what its balloon holds
  std::optional<ByteCount> rss = {};          // of its process on the host
  std::optional<absl::Time> updated = {};     // when the guest said so last, by the host's clock
};

// virDomainGetInfo.
struct DomainMemory {
  ByteCount maximum = {};
  ByteCount current = {};  // less what the balloon holds
};

// The same: what a domain is doing, and the CPU time that its process has used.
struct DomainActivity {
  DomainState state = DomainState::kNone;
  absl::Duration cpu_time = {};
};

// virDomainGetMemoryParameters. Nothing: no limit.
struct MemoryTune {
  std::optional<ByteCount> hard_limit = {};
  std::optional<ByteCount> soft_limit = {};
  std::optional<ByteCount> swap_hard_limit = {};  // of memory and swap space together
  friend bool operator==(const MemoryTune&, const MemoryTune&) = default;
};

// virNodeGetInfo.
struct NodeInfo {
  std::string model = {};  // of the CPUs
  ByteCount memory = {};
  unsigned cpus = 0;
};

// virNodeGetMemoryStats.
struct NodeMemory {
  ByteCount total = {};
  ByteCount free = {};
  ByteCount buffers = {};
  ByteCount cached = {};
};

// virNodeGetMemoryParameters: the host's same-page merging. What its kernel does not have is nothing.
struct NodeKsm {
  std::optional<uint64_t> pages_to_scan = {};    // each time that ksmd wakes
  std::optional<uint64_t> sleep_millisecs = {};  // in between
  std::optional<bool> merge_across_nodes = {};
  // Figures, not to be set:
  std::optional<uint64_t> pages_shared = {};
  std::optional<uint64_t> pages_sharing = {};
  std::optional<uint64_t> pages_unshared = {};
  std::optional<uint64_t> pages_volatile = {};
  std::optional<uint64_t> full_scans = {};
};

// The methods are thread safe, and wait for the answer: as long as the connection is alive, however long that takes.
//
// `domain` is a domain's UUID, as DomainSummary has it. Errors of all methods, with what was asked and what libvirt
// said:
//   Unavailable         there is no connection any more; it does not come back, another one has to be opened
//   PermissionDenied    the connection, or this user, may not do this
//   Unimplemented       this driver, host or domain cannot do this
//   NotFound            there is no such domain
//   FailedPrecondition  the domain is not in a state for it: not running, say
//   InvalidArgument     the XML, or a value, is refused
//   AlreadyExists       there is such a domain
//   DeadlineExceeded    the domain was busy with something else all the time
//   Internal            anything else
class LibvirtConnection {
 public:
  enum class DomainSet : uint8_t { kActive, kAll };
  enum class XmlOf : uint8_t { kNow, kNextStart };

  virtual ~LibvirtConnection() = default;

  // Whether it is still there, as far as is known without asking.
  virtual bool IsAlive() = 0;
  virtual absl::StatusOr<std::string> Uri() = 0;
  virtual absl::StatusOr<std::string> HostName() = 0;
  virtual absl::StatusOr<std::string> Capabilities() = 0;  // XML

  // By name. A domain that goes meanwhile is left out.
  virtual absl::StatusOr<std::vector<DomainSummary>> ListDomains(DomainSet set) = 0;
  virtual absl::StatusOr<DomainSummary> FindDomain(absl::string_view name_or_uuid) = 0;
  virtual absl::StatusOr<DomainSummary> Domain(const std::string& domain) = 0;
  virtual absl::StatusOr<std::string> DomainXml(const std::string& domain, XmlOf which) = 0;

  virtual absl::StatusOr<DomainMemory> GetMemory(const std::string& domain) = 0;
  virtual absl::StatusOr<DomainActivity> GetActivity(const std::string& domain) = 0;
  virtual absl::StatusOr<DomainMemoryStats> GetMemoryStats(const std::string& domain) = 0;
  // How often a running guest is asked for statistics, in whole seconds; 0: not at all.
  virtual absl::StatusOr<int> GetMemoryStatsPeriod(const std::string& domain) = 0;
  virtual absl::Status SetMemoryStatsPeriod(const std::string& domain, int seconds) = 0;
  // How much of its memory a running guest is to have: the rest goes into its balloon, as fast as it gives it. In KiB:
  // what is less than one is cut off.
  virtual absl::Status SetMemory(const std::string& domain, ByteCount memory) = 0;
  virtual absl::StatusOr<MemoryTune> GetMemoryTune(const std::string& domain) = 0;
  // Of a running domain. All that `tune` has; a limit without a value is left as it is.
  virtual absl::Status SetMemoryTune(const std::string& domain, const MemoryTune& tune) = 0;
  virtual absl::Status RemoveSoftLimit(const std::string& domain) = 0;

  virtual absl::StatusOr<DomainSummary> Define(absl::string_view xml) = 0;
  // Starts a domain that is gone once it ends.
  virtual absl::StatusOr<DomainSummary> CreateTransient(absl::string_view xml) = 0;
  // The same of one that is paused until Resume, and gone as soon as this connection is: also if its process is killed.
  virtual absl::StatusOr<DomainSummary> CreatePaused(absl::string_view xml) = 0;
  virtual absl::Status Resume(const std::string& domain) = 0;
  virtual absl::Status Start(const std::string& domain) = 0;
  // Asks the guest to power off.
  virtual absl::Status Shutdown(const std::string& domain) = 0;
  virtual absl::Status Destroy(const std::string& domain) = 0;  // ends it as pulling the plug does
  virtual absl::Status Undefine(const std::string& domain) = 0;

  virtual absl::StatusOr<NodeInfo> GetNodeInfo() = 0;
  virtual absl::StatusOr<NodeMemory> GetNodeMemory() = 0;
  virtual absl::StatusOr<NodeKsm> GetNodeKsm() = 0;
  // All that `ksm` has of what can be set.
  virtual absl::Status SetNodeKsm(const NodeKsm& ksm) = 0;
};

enum class LibvirtAccess : uint8_t { kReadOnly, kReadWrite };

// Connects to "qemu:///system", "test:///default" or what else libvirt has drivers for (libvirt.org/uri.html); asks
// nobody for passwords. A host that does not answer for half a minute is taken for gone. The first call starts a thread
// for that, which stays. Thread safe.
// Errors: FailedPrecondition  libvirt is not installed, or this program was built without it: says what to install
//         Unavailable, PermissionDenied, InvalidArgument  as above
absl::StatusOr<std::unique_ptr<LibvirtConnection>> OpenLibvirt(const std::string& uri, LibvirtAccess access);

}  // namespace quire

#endif  // QUIRE_VMM_LIBVIRT_CONNECTION_H_
