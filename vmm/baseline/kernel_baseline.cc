#include "vmm/baseline/kernel_baseline.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "absl/algorithm/container.h"
#include "absl/memory/memory.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/unique_fd.h"
#include "vmm/baseline/ksm.h"
#include "vmm/baseline/setting.h"
#include "vmm/baseline/undo.h"

namespace quire {
namespace {

constexpr absl::string_view kHugePages = "/sys/kernel/mm/transparent_hugepage";

// What costs ksmd the least CPU time on the way to where merge-scan ends, by trial (docs/merging.md). What a kernel
// does not have is left out: use_zero_pages came with Linux 4.12, smart_scan with 6.7, the advisor with 6.8. The
// advisor goes first: while it is at work the others are its own.
constexpr std::pair<absl::string_view, absl::string_view> kKsmdAtItsBest[] = {{"advisor_mode", "none"},
                                                                              {"smart_scan", "1"},
                                                                              {"use_zero_pages", "1"},
                                                                              {"pages_to_scan", "10000"},
                                                                              {"sleep_millisecs", "0"}};

absl::Status Lacking(absl::string_view what, const absl::Status& why) {
  return absl::FailedPreconditionError(absl::StrCat(what, ": ", why.message()));
}

// The header of swap space, as mkswap writes it: union swap_header in Linux's include/linux/swap.h.
absl::Status WriteSwapHeader(const std::string& device, ByteCount size) {
  struct {
    char boot[1024] = {};
    uint32_t version = 1;
    uint32_t last_page;
    uint32_t bad_pages = 0;
    char rest[kPageSize - 1024 - 3 * sizeof(uint32_t) - 10] = {};
    char magic[10] = {'S', 'W', 'A', 'P', 'S', 'P', 'A', 'C', 'E', '2'};
  } header;
  static_assert(sizeof header == kPageSize);
  header.last_page = static_cast<uint32_t>(size.in_bytes() / kPageSize - 1);
  const UniqueFd fd(open(device.c_str(), O_WRONLY | O_CLOEXEC));
  if (fd.valid() && write(fd.get(), &header, sizeof header) == sizeof header && fsync(fd.get()) == 0) {
    return absl::OkStatus();
  }
  return absl::ErrnoToStatus(errno, absl::StrCat("write a swap header to ", device));
}

// Pages of a process that has ended are freed with it, but for some that a CPU frees together: up to 64 in each of the
// kernel's caches of swap slots (until Linux 6.13).
constexpr PageCount kLeftBehind(256);
constexpr PageCount kLeftBehindForCpu(128);
constexpr absl::Duration kLookEvery = absl::Milliseconds(5);

// Fields of zram's mm_stat: Documentation/admin-guide/blockdev/zram.rst.
constexpr size_t kOriginalSize = 0;
constexpr size_t kMemoryUsed = 2;

uint64_t FieldOf(const std::string& mm_stat, size_t field) {
  const absl::StatusOr<std::string> text = ReadSetting(mm_stat);
  if (!text.ok()) return 0;
  const std::vector<absl::string_view> fields = absl::StrSplit(*text, ' ', absl::SkipWhitespace());
  uint64_t number = 0;
  return fields.size() > field && absl::SimpleAtoi(fields[field], &number) ? number : 0;
}

// The number after `key` in a file of lines such as "anon 4096".
uint64_t KeyedNumber(absl::string_view text, absl::string_view key) {
  for (const absl::string_view line : absl::StrSplit(text, '\n')) {
    const std::pair<absl::string_view, absl::string_view> words = absl::StrSplit(line, absl::MaxSplits(' ', 1));
    uint64_t number = 0;
    if (words.first == key && absl::SimpleAtoi(words.second, &number)) return number;
  }
  return 0;
}

// Where tests have made a host up, there is nothing to swap to.
int SwitchNothing(const char*, int) { return 0; }
int SwitchNothingOff(const char*) { return 0; }

}  // namespace

absl::StatusOr<std::unique_ptr<KernelBaseline>> KernelBaseline::Create(const KernelNeeds& needs, ByteCount memory,
                                                                       const std::string& root) {
  HostSeams seams{.root = root};
  if (!root.empty()) seams.swap = {.on = SwitchNothing, .off = SwitchNothingOff};
  return Create(needs, memory, std::move(seams));
}

absl::StatusOr<std::unique_ptr<KernelBaseline>> KernelBaseline::Create(const KernelNeeds& needs, ByteCount memory,
                                                                       HostSeams seams) {
  if (seams.root.empty() && (needs.swaps || needs.limited || needs.merges) && geteuid() != 0) {
    return absl::FailedPreconditionError("swap space, a memory cgroup and ksmd for the host kernel's side need root");
  }
  auto baseline = absl::WrapUnique(new KernelBaseline(needs, std::move(seams)));
  if (absl::Status status = baseline->SetUp(memory); !status.ok()) return status;
  return baseline;
}

// The cgroup first, so that it goes last: what runs in it has memory in swap space.
absl::Status KernelBaseline::SetUp(ByteCount memory) {
  if (needs_.limited) {
    if (absl::Status status = SetUpCgroup(); !status.ok()) return Lacking("no memory cgroup", status);
  }
  if (needs_.swaps) {
    const ByteCount size = ByteCount::Bytes(2 * memory.in_bytes());
    if (absl::Status status = SetUpSwap(size); !status.ok()) return Lacking("no swap space in zram", status);
  }
  if (needs_.merges) {
    if (absl::Status status = SetUpMerging(); !status.ok()) return Lacking("no ksmd to compare with", status);
  }
  set_up_ = settings_.mark();
  return absl::OkStatus();
}

// A device that nobody uses, or a new one.
absl::StatusOr<std::string> KernelBaseline::FindZram() {
  if (absl::Status status = settings_.Open(); !status.ok()) return status;
  const std::string sysfs = absl::StrCat(root_, "/sys");
  const std::string first = absl::StrCat(sysfs, "/block/zram0");
  if (access(first.c_str(), F_OK) == 0 && NumberIn(first + "/disksize") == 0) return first;
  absl::StatusOr<std::string> number = absl::UnknownError("no device was made");
  const Undo undo = {
      .kind = Undo::Kind::kRemoveNewZrams, .target = sysfs, .value = ZramsIn(absl::StrCat(sysfs, "/block"))};
  absl::Status status = settings_.Do(undo, [&] {
    number = ReadSetting(absl::StrCat(sysfs, "/class/zram-control/hot_add"));
    return number.status();
  });
  if (!status.ok()) return status;
  const std::string zram = absl::StrCat(sysfs, "/block/zram", *number);
  const std::string sequence = ReadSetting(zram + "/diskseq").value_or("");
  status = settings_.Note({.kind = Undo::Kind::kRemoveZram, .target = zram, .value = sequence});
  if (!status.ok()) return status;
  return zram;
}

absl::Status KernelBaseline::SetUpSwap(ByteCount size) {
  absl::StatusOr<std::string> zram = FindZram();
  if (!zram.ok()) return zram.status();
  zram_ = *zram;
  if (absl::Status status = settings_.Change(zram_ + "/comp_algorithm", "lz4"); !status.ok()) return status;
  const std::string bytes = absl::StrCat(size.in_bytes());
  const Undo reset = {.kind = Undo::Kind::kResetZram, .target = zram_, .value = bytes};
  absl::Status status = settings_.Do(reset, [&] { return WriteSetting(zram_ + "/disksize", bytes); });
  if (!status.ok()) return status;
  return SwitchOnSwap(size);
}

absl::Status KernelBaseline::SwitchOnSwap(ByteCount size) {
  const std::string device = absl::StrCat(root_, "/dev/", zram_.substr(zram_.rfind('/') + 1));
  if (root_.empty()) {
    if (absl::Status status = WriteSwapHeader(device, size); !status.ok()) return status;
  }
  return settings_.Do({.kind = Undo::Kind::kSwapOff, .target = device}, [&] {
    // Before all other swap space.
    if (swap_on_(device.c_str(), SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK) == 0) return absl::OkStatus();
    return absl::ErrnoToStatus(errno, absl::StrCat("swapon ", device));
  });
}

absl::Status KernelBaseline::SetUpCgroup() {
  if (absl::Status status = settings_.Open(); !status.ok()) return status;
  const std::string top = absl::StrCat(root_, "/sys/fs/cgroup");
  // Version 2 has one tree for all controllers, version 1 a tree for each.
  unified_ = access((top + "/cgroup.controllers").c_str(), F_OK) == 0;
  if (unified_) {
    const std::string control = top + "/cgroup.subtree_control";
    const absl::StatusOr<std::string> before = ReadSetting(control);
    if (!before.ok()) return before.status();
    const std::vector<absl::string_view> controllers = absl::StrSplit(*before, ' ');
    if (!absl::c_linear_search(controllers, "memory")) {
      absl::Status status = settings_.Do({.kind = Undo::Kind::kWrite, .target = control, .value = "-memory"},
                                         [&] { return WriteSetting(control, "+memory"); });
      if (!status.ok()) return status;
    }
  }
  const std::string group = absl::StrCat(top, unified_ ? "" : "/memory", "/quire-", getpid());
  if (access(group.c_str(), F_OK) == 0) {
    return absl::FailedPreconditionError(
        absl::StrCat(group, " is there already, and nobody knows whose it is: rmdir it"));
  }
  absl::Status status = settings_.Do({.kind = Undo::Kind::kRemoveCgroup, .target = group}, [&] {
    return mkdir(group.c_str(), 0755) == 0 ? absl::OkStatus()
                                           : absl::ErrnoToStatus(errno, absl::StrCat("mkdir ", group));
  });
  if (!status.ok()) return status;
  group_ = group;
  procs_ = group + "/cgroup.procs";
  return absl::OkStatus();
}

absl::Status KernelBaseline::SetUpMerging() {
  if (absl::Status status = settings_.Open(); !status.ok()) return status;
  const std::string run = absl::StrCat(root_, kKsmDirectory, "/run");
  const absl::StatusOr<std::string> before = ReadSetting(run);
  if (!before.ok()) return before.status();
  if (const absl::StatusOr<std::string> ksmd = FindKsmdSchedstat(root_); !ksmd.ok()) return ksmd.status();
  const absl::StatusOr<KsmCounters> counters = ReadKsmCounters(root_);
  if (!counters.ok()) return counters.status();
  if (counters->shared + counters->unshared > PageCount()) {
    return absl::FailedPreconditionError("it merges memory of other programs, which would count as well");
  }
  // At the end it forgets all pages, and is as it was then. Also if it stands still now: it is written to several
  // times.
  if (absl::Status s = settings_.Note({.kind = Undo::Kind::kWrite, .target = run, .value = *before}); !s.ok()) return s;
  return settings_.Do({.kind = Undo::Kind::kWrite, .target = run, .value = "2"},
                      [&] { return WriteSetting(run, "2"); });
}

absl::Status KernelBaseline::StartMerging(KernelTuning tuning) {
  const std::string directory = absl::StrCat(root_, kKsmDirectory, "/");
  if (tuning == KernelTuning::kAtItsBest) {
    for (const auto& [name, value] : kKsmdAtItsBest) {
      const std::string path = absl::StrCat(directory, name);
      if (access(path.c_str(), F_OK) != 0) continue;
      if (absl::Status status = settings_.Change(path, value); !status.ok()) return status;
    }
  }
  return WriteSetting(directory + "run", "1");
}

absl::Status KernelBaseline::Prepare(KernelTuning tuning, bool merged) {
  if (merged && !needs_.merges) return absl::InternalError("a baseline without ksmd is to have a run merged");
  if (absl::Status status = Rest(); !status.ok()) return status;
  // Guests that are there for ksmd alone have pages of 4 KiB by themselves.
  const bool only_merges = needs_.merges && !needs_.swaps && !needs_.limited;
  if (!only_merges) {
    if (absl::Status status = PrepareHugePages(tuning); !status.ok()) return status;
  }
  merging_ = merged;
  return merged ? StartMerging(tuning) : absl::OkStatus();
}

absl::Status KernelBaseline::Rest() {
  merging_ = false;
  // Processes that are nobody's children here, as QEMU's, may outlive the run that was killed.
  if (!group_.empty()) {
    if (absl::Status status = KillAllIn(group_); !status.ok()) return status;
  }
  settings_.PutBack(set_up_);
  if (needs_.merges) {
    const std::string run = absl::StrCat(root_, kKsmDirectory, "/run");
    if (absl::Status status = WriteSetting(run, "2"); !status.ok()) return status;
  }
  return WaitUntilZramIsEmpty();
}

// A process is freed at a gigabyte in 230 ms from zram (Linux 6.18), before whoever waits for its end hears of it. One
// that is nobody's child here may still be at it, and then zram's content shrinks all the time.
absl::Status KernelBaseline::WaitUntilZramIsEmpty() const {
  if (zram_.empty()) return absl::OkStatus();
  const auto cpus = static_cast<uint64_t>(sysconf(_SC_NPROCESSORS_ONLN));
  const uint64_t little = (kLeftBehind + kLeftBehindForCpu * cpus).bytes().in_bytes();
  uint64_t before = std::numeric_limits<uint64_t>::max();
  MonotonicTime since = RealClock().Now();
  for (;;) {
    const uint64_t stored = FieldOf(zram_ + "/mm_stat", kOriginalSize);
    if (stored <= little) return absl::OkStatus();
    if (stored != before) since = RealClock().Now();
    before = stored;
    if (RealClock().Now() - since > patience_) {
      return absl::FailedPreconditionError(
          absl::StrCat("other programs have ", stored >> 20, " MiB of their memory in ", zram_,
                       ", which would count as well: have more memory free, so that the kernel need not swap"));
    }
    absl::SleepFor(kLookEvery);
  }
}

absl::Status KernelBaseline::PrepareHugePages(KernelTuning tuning) {
  const std::string huge = absl::StrCat(root_, kHugePages);
  if (tuning == KernelTuning::kSmallPages && needs_.limited) return settings_.Change(huge + "/enabled", "never");
  if (tuning != KernelTuning::kAtItsBest) return absl::OkStatus();
  if (needs_.limited) {
    absl::Status status = settings_.Change(huge + "/hugepages-2048kB/enabled", "never");
    if (!status.ok()) return status;
  }
  for (const absl::string_view size : {"16kB", "32kB", "64kB"}) {
    absl::Status status = settings_.Change(absl::StrCat(huge, "/hugepages-", size, "/enabled"), "always");
    if (absl::IsNotFound(status)) return Lacking("no multi-size huge pages (Linux 6.8)", status);
    if (!status.ok()) return Lacking("multi-size huge pages cannot be switched on", status);
  }
  return absl::OkStatus();
}

absl::Status KernelBaseline::SetLimit(ByteCount limit) {
  return WriteSetting(group_ + (unified_ ? "/memory.max" : "/memory.limit_in_bytes"), absl::StrCat(limit.in_bytes()));
}

uint64_t KernelBaseline::OomKills() const {
  if (group_.empty()) return 0;
  const std::string events = ReadSetting(group_ + (unified_ ? "/memory.events" : "/memory.oom_control")).value_or("");
  return KeyedNumber(events, "oom_kill");
}

ByteCount KernelBaseline::Usage() const { return ReadMemory().total(); }

KernelMemory KernelBaseline::ReadMemory() const {
  KernelMemory memory;
  if (!group_.empty()) ReadCgroup(memory);
  if (!zram_.empty()) ReadZram(memory);
  if (!merging_) return memory;
  if (const absl::StatusOr<KsmCounters> counters = ReadKsmCounters(root_); counters.ok()) {
    memory.ksm_shared = counters->shared.bytes();
    memory.ksm_sharing = counters->saved().bytes();
  }
  return memory;
}

// Documentation/admin-guide/cgroup-v2.rst and cgroup-v1/memory.rst, "memory.stat".
void KernelBaseline::ReadCgroup(KernelMemory& memory) const {
  const auto number = [this](const char* v2, const char* v1) {
    return ByteCount::Bytes(NumberIn(absl::StrCat(group_, "/", unified_ ? v2 : v1)));
  };
  memory.limit = number("memory.max", "memory.limit_in_bytes");  // "max", no limit, is no number
  memory.charged = number("memory.current", "memory.usage_in_bytes");
  const std::string stat = ReadSetting(group_ + "/memory.stat").value_or("");
  memory.resident = ByteCount::Bytes(KeyedNumber(stat, unified_ ? "anon" : "rss"));
  memory.huge = ByteCount::Bytes(KeyedNumber(stat, unified_ ? "anon_thp" : "rss_huge"));
}

void KernelBaseline::ReadZram(KernelMemory& memory) const {
  memory.zram_stored = ByteCount::Bytes(FieldOf(zram_ + "/mm_stat", kOriginalSize));
  memory.zram_used = ByteCount::Bytes(FieldOf(zram_ + "/mm_stat", kMemoryUsed));
}

}  // namespace quire
