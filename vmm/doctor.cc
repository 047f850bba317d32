#include "vmm/doctor.h"

#include <array>
#include <cerrno>
#include <cstring>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "vmm/accel.h"
#include "vmm/host_facts.h"
#include "vmm/libvirt/qemu/qemu_accel.h"
#include "vmm/text.h"
#include "vmm/version.h"

namespace quire {
namespace {

constexpr KernelVersion kMinorFaults = {5, 14};
constexpr KernelVersion kCollapse = {6, 1};
constexpr KernelVersion kNoswap = {6, 4};
constexpr uint64_t kDefaultMappings = 65530;
constexpr ByteCount kLeastMemory = ByteCount::MiB(64);  // below this not even one small guest makes sense
constexpr char kThp[] = "/sys/kernel/mm/transparent_hugepage/";

std::string Thp(const Host& host, absl::string_view file) {
  const std::string chosen = ChosenIn(host, absl::StrCat(kThp, file));
  return chosen.empty() ? "absent" : chosen;
}

Finding CheckKernel(const Host& host) {
  const KernelVersion version = Kernel(host);
  Finding finding{.name = "kernel", .found = absl::StrCat("Linux ", version.major, ".", version.minor)};
  if (version >= kCollapse) {
    finding.means = "It has all that is used: MINOR faults on shared memory (5.14) and MADV_COLLAPSE (6.1).";
    return finding;
  }
  finding.grade = version >= kMinorFaults ? Grade::kReduced : Grade::kMissing;
  finding.means = version >= kMinorFaults ? "Blocks of 2 MiB come back page by page: MADV_COLLAPSE came with 6.1."
                                          : "KVM guests cannot be paged: MINOR faults on shared memory came with 5.14.";
  finding.fix = "run Linux 6.1 or later";
  return finding;
}

Finding CheckCpus(const Host& host) {
  Finding finding{.name = "cpus", .found = Plural(static_cast<uint64_t>(host.Cpus()), "usable CPU")};
  if (host.Cpus() >= 2) {
    finding.means = "Faults are served and memory is reclaimed beside the guests.";
    return finding;
  }
  finding.grade = Grade::kReduced;
  finding.means = "Guests and the threads that serve them take turns.";
  finding.fix = "give the process more CPUs";
  return finding;
}

Finding CheckKvm(const Host& host) {
  const std::optional<Obstacle> obstacle = KvmObstacle(host);
  if (!obstacle) return {.name = "kvm", .found = "/dev/kvm works", .means = "Guests run on the CPU itself."};
  return {.name = "kvm",
          .grade = Grade::kMissing,
          .found = FullText(*obstacle),
          .means =
              "Guests run on software vCPUs: the same workloads on the same memory manager, more slowly. "
              "--payload is not possible.",
          .fix = obstacle->fix};
}

Finding CheckNestedPaging(const Host& host) {
  const std::optional<bool> nested = HasNestedPaging(host);
  Finding finding{.name = "nested paging"};
  if (!nested) {
    finding.found = "neither kvm_intel nor kvm_amd is loaded, so it cannot be told";
    finding.means = "It matters to KVM guests only.";
  } else if (*nested) {
    finding.found = "EPT or NPT is on";
    finding.means = "The hardware walks the guests' page tables.";
  } else {
    const Obstacle obstacle = *NestedPagingObstacle(host);
    finding.grade = Grade::kReduced;
    finding.found = obstacle.found;
    finding.means = "Payloads of this program run at full speed; a guest with a kernel of its own may not run.";
    finding.fix = obstacle.fix;
  }
  return finding;
}

struct Feature {
  uint64_t bit;
  const char* name;
};
// From linux/userfaultfd.h, the names that a guest memory manager cares for.
constexpr std::array<Feature, 9> kFeatures = {{{uint64_t{1} << 0, "WP"},
                                               {kUffdMissingShmem, "MISSING_SHMEM"},
                                               {uint64_t{1} << 8, "THREAD_ID"},
                                               {kUffdMinorShmem, "MINOR_SHMEM"},
                                               {uint64_t{1} << 11, "EXACT_ADDRESS"},
                                               {uint64_t{1} << 12, "WP_SHMEM"},
                                               {uint64_t{1} << 14, "POISON"},
                                               {uint64_t{1} << 15, "WP_ASYNC"},
                                               {uint64_t{1} << 16, "MOVE"}}};

std::string FeatureNames(uint64_t features) {
  std::vector<absl::string_view> names;
  for (const Feature& feature : kFeatures) {
    if ((features & feature.bit) != 0) names.push_back(feature.name);
  }
  return absl::StrJoin(names, " ");
}

Finding CheckQemu(const Host& host) {
  const QemuAccel accel = QemuAccelOf(host);
  return {.name = "qemu",
          .found = accel.kvm ? "KVM can run its guests" : absl::StrCat("its guests are emulated: ", accel.because),
          .means = accel.kvm ? "Experiments can compare with QEMU (engine = \"qemu\"), which takes libvirt."
                             : "Experiments with engine = \"qemu\" run, and say nothing of speed."};
}

Finding CheckUserfaultfd(const Host& host) {
  const std::optional<Obstacle> obstacle = UserfaultfdObstacle(host);
  if (obstacle) {
    return {.name = "userfaultfd",
            .grade = Grade::kMissing,
            .found = FullText(*obstacle),
            .means = "KVM guests cannot be paged; software vCPUs do not need it.",
            .fix = obstacle->fix};
  }
  const UserfaultfdOffer offer = host.ProbeUserfaultfd();
  return {.name = "userfaultfd",
          .found = absl::StrCat("by ", offer.syscall_error == 0 ? "the system call" : "/dev/userfaultfd", ": ",
                                FeatureNames(offer.features)),
          .means = "Faults of KVM guests are served by this program."};
}

Finding CheckPool(const Host& host) {
  const PoolOffer offer = host.ProbePool();
  Finding finding{.name = "pool"};
  if (!offer.created.ok()) {
    finding.grade = Grade::kMissing;
    finding.found = absl::StrCat("no file to keep guests' memory in (", offer.created.message(), ")");
    finding.means = "Nothing can run.";
    finding.fix = "allow memfd_create, or user namespaces and mounts of tmpfs in them";
    return finding;
  }
  finding.found =
      absl::StrCat(offer.tmpfs ? "a private tmpfs with huge=advise" : "a memfd, for a tmpfs cannot be mounted",
                   offer.huge ? ", with 2 MiB pages" : ", with 4 KiB pages only");
  if (offer.huge) {
    finding.means = "Guests' memory is kept in 2 MiB pages where it can be.";
    return finding;
  }
  finding.grade = Grade::kReduced;
  finding.means = "Each 4 KiB page is faulted in and mapped on its own: more faults, and more misses of the TLB.";
  finding.fix = offer.tmpfs ? absl::StrCat("as root, write advise to ", kThp, "shmem_enabled unless it says deny there")
                            : absl::StrCat(
                                  "run as root, allow user namespaces (`sysctl user.max_user_namespaces`), or "
                                  "write advise to ",
                                  kThp, "shmem_enabled as root");
  return finding;
}

Finding CheckCollapse(const Host& host) {
  const PoolOffer offer = host.ProbePool();
  if (offer.created.ok() && offer.huge && offer.collapse_error == 0) {
    return {.name = "whole blocks",
            .found = "MADV_COLLAPSE maps a 2 MiB page of the pool",
            .means = "A block comes back to its guest by one page-table entry."};
  }
  return {.name = "whole blocks",
          .grade = Grade::kReduced,
          .found = offer.huge
                       ? absl::StrCat("MADV_COLLAPSE fails on the pool (", std::strerror(offer.collapse_error), ")")
                       : "the pool has no 2 MiB pages to map",
          .means = "A block comes back to its guest page by page.",
          .fix = offer.huge ? "run Linux 6.1 or later" : "see pool above"};
}

Finding CheckThp(const Host& host) {
  const std::string shmem = Thp(host, "shmem_enabled");
  Finding finding{.name = "huge pages",
                  .found = absl::StrCat("transparent_hugepage: enabled=", Thp(host, "enabled"),
                                        " shmem_enabled=", shmem, " defrag=", Thp(host, "defrag"))};
  if (shmem == "deny" || shmem == "absent") {
    finding.grade = Grade::kReduced;
    finding.means = "The kernel gives no 2 MiB pages to any file in memory.";
    finding.fix = shmem == "deny" ? absl::StrCat("as root, write never or advise to ", kThp, "shmem_enabled")
                                  : "run a kernel with CONFIG_TRANSPARENT_HUGEPAGE";
    return finding;
  }
  finding.means = shmem == "never" ? "A mount with huge=advise still has 2 MiB pages; a memfd does not."
                                   : "Both a mount with huge=advise and a memfd can have 2 MiB pages.";
  return finding;
}

Finding CheckMemory(const Host& host) {
  const ByteCount total = MemInfo(host, "MemTotal");
  const ByteCount available = MemInfo(host, "MemAvailable");
  Finding finding{.name = "memory",
                  .found = absl::StrCat(FormatSize(total), ", of which ", FormatSize(available), " are available"),
                  .means = absl::StrCat("Pools up to about ", FormatSize(available), " are safe now.")};
  if (available >= kLeastMemory) return finding;
  finding.grade = total >= kLeastMemory ? Grade::kReduced : Grade::kMissing;
  finding.means = "There is hardly room for a guest.";
  finding.fix = absl::StrCat("free some memory, at least ", FormatSize(kLeastMemory));
  return finding;
}

Finding CheckCgroup(const Host& host) {
  const std::optional<ByteCount> limit = CgroupLimit(host);
  if (!limit || *limit >= MemInfo(host, "MemTotal")) {
    return {.name = "cgroup", .found = "no memory limit below the host's memory", .means = "All of it can be used."};
  }
  return {.name = "cgroup",
          .grade = *limit >= kLeastMemory ? Grade::kReduced : Grade::kMissing,
          .found = absl::StrCat("memory is limited to ", FormatSize(*limit)),
          .means = "The pool counts against it, and past it the kernel kills the process.",
          .fix = "keep --pool well below the limit, or raise it (memory.max, or the container's --memory)"};
}

bool HasSwap(const Host& host) { return MemInfo(host, "SwapTotal") > ByteCount(); }

Finding CheckSwap(const Host& host) {
  if (!HasSwap(host)) {
    return {.name = "host swap", .found = "none", .means = "The pool stays in memory, as measurements need it."};
  }
  const std::string found = absl::StrCat(FormatSize(MemInfo(host, "SwapTotal")), " of swap");
  if (Kernel(host) >= kNoswap && HasCapability(host, kCapSysAdmin)) {
    return {.name = "host swap", .found = found, .means = "The pool's mount opts out of it (noswap)."};
  }
  return {.name = "host swap",
          .grade = Grade::kReduced,
          .found = found,
          .means = "The host may swap the pool out behind this program's back: slower, and measurements are spoilt.",
          .fix = "run as root on Linux 6.4 or later (noswap), or `swapoff -a` while measuring"};
}

Finding CheckMappings(const Host& host) {
  const uint64_t limit = NumberIn(host, "/proc/sys/vm/max_map_count").value_or(kDefaultMappings);
  Finding finding{.name = "mappings",
                  .found = absl::StrCat("up to ", FormatCount(limit), " a process (vm.max_map_count)"),
                  .means = "Far more than the few mappings a guest takes."};
  if (limit >= kDefaultMappings) return finding;
  finding.grade = Grade::kReduced;
  finding.fix = absl::StrCat("as root, `sysctl vm.max_map_count=", kDefaultMappings, "` or more");
  return finding;
}

Finding CheckPrivileges(const Host& host) {
  std::vector<absl::string_view> names;
  if (HasCapability(host, kCapSysAdmin)) names.push_back("CAP_SYS_ADMIN");
  if (HasCapability(host, kCapSysPtrace)) names.push_back("CAP_SYS_PTRACE");
  if (HasCapability(host, kCapSysNice)) names.push_back("CAP_SYS_NICE");
  return {.name = "privileges",
          .found = absl::StrCat("user ", host.UserId(), ", ",
                                names.empty() ? "no capabilities that matter" : absl::StrJoin(names, " ")),
          .means = names.empty() ? "None are needed for software vCPUs; the checks above say what others need."
                                 : "They are used for mounting the pool and for serving KVM's faults."};
}

using Check = Finding (*)(const Host&);
constexpr Check kChecks[] = {CheckKernel,       CheckCpus, CheckMemory,      CheckCgroup,    CheckKvm,
                             CheckNestedPaging, CheckQemu, CheckUserfaultfd, CheckPool,      CheckCollapse,
                             CheckThp,          CheckSwap, CheckMappings,    CheckPrivileges};

std::string Using(const Diagnosis& diagnosis, absl::string_view because) {
  return absl::StrCat("`quire run` will use a ", diagnosis.pool, " pool with ", diagnosis.huge ? "2 MiB" : "4 KiB",
                      " pages and accel=", diagnosis.accel, ", because ", because, ".");
}

const char* Name(Grade grade) {
  switch (grade) {
    case Grade::kOk:
      return "ok";
    case Grade::kReduced:
      return "reduced";
    case Grade::kMissing:
      return "missing";
  }
  return "";
}

std::string FindingText(const Finding& finding) {
  constexpr size_t kWidth = 100;
  constexpr size_t kIndent = 25;
  const auto paragraph = [&](absl::string_view text) { return absl::StrCat(Wrap(text, kWidth, kIndent), "\n"); };
  const std::string margin(kIndent, ' ');
  std::string text = absl::StrFormat("%-9s%-16s%s", Name(finding.grade), finding.name, paragraph(finding.found));
  absl::StrAppend(&text, margin, paragraph(finding.means));
  if (!finding.fix.empty())
    absl::StrAppend(&text, margin, paragraph(absl::StrCat("To get it: ", Sentence(finding.fix))));
  return text;
}

}  // namespace

Diagnosis Diagnose(const Host& host) {
  Diagnosis diagnosis;
  for (const Check check : kChecks) diagnosis.findings.push_back(check(host));
  const PoolOffer pool = host.ProbePool();
  const absl::StatusOr<AccelDecision> accel = DecideAccel({}, host);
  if (!pool.created.ok() || UsableMemory(host) < kLeastMemory) {
    diagnosis.verdict = absl::StrCat("`quire run` cannot run anything here: there is no ",
                                     pool.created.ok() ? "memory for a guest." : "file to keep guests' memory in.");
    return diagnosis;
  }
  diagnosis.runs = true;
  diagnosis.accel = std::string(Name(accel->accel));
  diagnosis.pool = pool.tmpfs ? "tmpfs" : "memfd";
  diagnosis.huge = pool.huge;
  diagnosis.verdict = Using(diagnosis, accel->because);
  return diagnosis;
}

std::string ToText(const Diagnosis& diagnosis) {
  std::string text = absl::StrCat("quire ", kVersion, " on this host\n\n");
  for (const Finding& finding : diagnosis.findings) text += FindingText(finding);
  return absl::StrCat(text, "\n", diagnosis.verdict, "\n");
}

std::string ToJson(const Diagnosis& diagnosis) {
  using Json = nlohmann::ordered_json;
  Json findings = Json::array();
  for (const Finding& finding : diagnosis.findings) {
    findings.push_back(Json{{"name", finding.name},
                            {"grade", Name(finding.grade)},
                            {"found", finding.found},
                            {"means", finding.means},
                            {"fix", finding.fix}});
  }
  const Json json{{"version", kVersion},
                  {"runs", diagnosis.runs},
                  {"accel", diagnosis.accel},
                  {"pool", diagnosis.pool},
                  {"pages", diagnosis.huge ? "huge" : "small"},
                  {"verdict", diagnosis.verdict},
                  {"findings", findings}};
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

ExitStatus ToExitStatus(const Diagnosis& diagnosis) {
  return diagnosis.runs ? ExitStatus::kAllWell : ExitStatus::kHostLacks;
}

}  // namespace quire
