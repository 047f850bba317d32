#include "vmm/bench/kernel_baseline.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <iostream>
#include <utility>
#include <vector>

#include "absl/memory/memory.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/time/clock.h"
#include "base/unique_fd.h"
#include "vmm/bench/ksm.h"

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

uint64_t NumberIn(const std::string& path) {
  const absl::StatusOr<std::string> text = ReadSetting(path);
  uint64_t number = 0;
  return text.ok() && absl::SimpleAtoi(absl::StripAsciiWhitespace(*text), &number) ? number : 0;
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

}  // namespace

absl::StatusOr<std::unique_ptr<KernelBaseline>> KernelBaseline::Create(const Benchmark& benchmark, ByteCount memory,
                                                                       const std::string& root) {
  auto baseline = absl::WrapUnique(new KernelBaseline(root, benchmark));
  if (root.empty() && benchmark.swaps && geteuid() != 0) {
    return absl::FailedPreconditionError("swap space and a memory cgroup for the host kernel's side need root");
  }
  if (benchmark.swaps) {
    if (absl::Status status = baseline->SetUpSwap(ByteCount::Bytes(2 * memory.in_bytes())); !status.ok()) {
      return Lacking("no swap space in zram", status);
    }
  }
  if (benchmark.limited) {
    if (absl::Status status = baseline->SetUpCgroup(); !status.ok()) return Lacking("no memory cgroup", status);
  }
  if (benchmark.merges) {
    if (absl::Status status = baseline->SetUpMerging(); !status.ok()) return Lacking("no ksmd to compare with", status);
  }
  return baseline;
}

KernelBaseline::~KernelBaseline() {
  side_.PutBack();
  settings_.PutBack();
}

// A device that nobody uses, or a new one.
absl::StatusOr<std::string> KernelBaseline::FindZram() {
  const std::string first = absl::StrCat(root_, "/sys/block/zram0");
  if (access(first.c_str(), F_OK) == 0 && NumberIn(first + "/disksize") == 0) return first;
  const std::string control = absl::StrCat(root_, "/sys/class/zram-control");
  const absl::StatusOr<std::string> number = ReadSetting(control + "/hot_add");
  if (!number.ok()) return number.status();
  settings_.AtEnd([control, n = *number] { (void)WriteSetting(control + "/hot_remove", n); });
  return absl::StrCat(root_, "/sys/block/zram", *number);
}

absl::Status KernelBaseline::SetUpSwap(ByteCount size) {
  absl::StatusOr<std::string> zram = FindZram();
  if (!zram.ok()) return zram.status();
  zram_ = *zram;
  if (absl::Status status = settings_.Change(zram_ + "/comp_algorithm", "lz4"); !status.ok()) return status;
  settings_.AtEnd([reset = zram_ + "/reset"] { (void)WriteSetting(reset, "1"); });
  if (absl::Status s = WriteSetting(zram_ + "/disksize", absl::StrCat(size.in_bytes())); !s.ok()) return s;
  if (!root_.empty()) return absl::OkStatus();
  const std::string device = absl::StrCat("/dev/", zram_.substr(zram_.rfind('/') + 1));
  if (absl::Status status = WriteSwapHeader(device, size); !status.ok()) return status;
  // Before all other swap space.
  if (swapon(device.c_str(), SWAP_FLAG_PREFER | SWAP_FLAG_PRIO_MASK) != 0) {
    return absl::ErrnoToStatus(errno, absl::StrCat("swapon ", device));
  }
  settings_.AtEnd([device] { swapoff(device.c_str()); });
  return absl::OkStatus();
}

absl::Status KernelBaseline::SetUpCgroup() {
  const std::string top = absl::StrCat(root_, "/sys/fs/cgroup");
  // Version 2 has one tree for all controllers, version 1 a tree for each.
  const bool unified = access((top + "/cgroup.controllers").c_str(), F_OK) == 0;
  if (unified) {
    if (absl::Status status = WriteSetting(top + "/cgroup.subtree_control", "+memory"); !status.ok()) return status;
  }
  const std::string group = absl::StrCat(top, unified ? "" : "/memory", "/quire-bench-", getpid());
  if (mkdir(group.c_str(), 0755) != 0) return absl::ErrnoToStatus(errno, absl::StrCat("mkdir ", group));
  settings_.AtEnd([group] {
    // The kernel takes a moment to let go of a process that has just ended.
    for (int tries = 0; rmdir(group.c_str()) != 0 && errno == EBUSY && tries < 100; ++tries) {
      absl::SleepFor(absl::Milliseconds(20));
    }
  });
  limit_ = group + (unified ? "/memory.max" : "/memory.limit_in_bytes");
  usage_ = group + (unified ? "/memory.current" : "/memory.usage_in_bytes");
  procs_ = group + "/cgroup.procs";
  return absl::OkStatus();
}

absl::Status KernelBaseline::SetUpMerging() {
  const std::string run = absl::StrCat(root_, kKsmDirectory, "/run");
  const absl::StatusOr<std::string> before = ReadSetting(run);
  if (!before.ok()) return before.status();
  if (const absl::StatusOr<std::string> ksmd = FindKsmdSchedstat(root_); !ksmd.ok()) return ksmd.status();
  const absl::StatusOr<KsmCounters> counters = ReadKsmCounters(root_);
  if (!counters.ok()) return counters.status();
  if (counters->shared + counters->unshared > PageCount()) {
    return absl::FailedPreconditionError("it merges memory of other programs, which would count as well");
  }
  // Also what was the same before: it is written to several times.
  settings_.AtEnd([run, value = *before] {
    if (absl::Status status = WriteSetting(run, value); !status.ok()) {
      std::cerr << "quire: ksmd could not be put back as it was: " << status.message() << std::endl;
    }
  });
  return WriteSetting(run, "2");
}

absl::Status KernelBaseline::PrepareMerging(Side side) {
  const std::string run = absl::StrCat(root_, kKsmDirectory, "/run");
  if (absl::Status status = WriteSetting(run, "2"); !status.ok()) return status;
  if (side == Side::kKernelBest) {
    if (absl::Status status = TuneKsmd(); !status.ok()) return status;
  }
  return WriteSetting(run, "1");
}

absl::Status KernelBaseline::TuneKsmd() {
  for (const auto& [name, value] : kKsmdAtItsBest) {
    const std::string path = absl::StrCat(root_, kKsmDirectory, "/", name);
    if (access(path.c_str(), F_OK) != 0) continue;
    if (absl::Status status = side_.Change(path, value); !status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status KernelBaseline::Prepare(Side side) {
  side_.PutBack();
  return merges_ ? PrepareMerging(side) : PrepareHugePages(side);
}

absl::Status KernelBaseline::PrepareHugePages(Side side) {
  const std::string huge = absl::StrCat(root_, kHugePages);
  if (side == Side::kKernelSmall && limited_) return side_.Change(huge + "/enabled", "never");
  if (side != Side::kKernelBest) return absl::OkStatus();
  if (limited_) {
    if (absl::Status status = side_.Change(huge + "/hugepages-2048kB/enabled", "never"); !status.ok()) return status;
  }
  for (const absl::string_view size : {"16kB", "32kB", "64kB"}) {
    if (absl::Status s = side_.Change(absl::StrCat(huge, "/hugepages-", size, "/enabled"), "always"); !s.ok()) {
      return Lacking("no multi-size huge pages (Linux 6.8)", s);
    }
  }
  return absl::OkStatus();
}

absl::Status KernelBaseline::SetLimit(ByteCount limit) { return WriteSetting(limit_, absl::StrCat(limit.in_bytes())); }

ByteCount KernelBaseline::Usage() const {
  uint64_t bytes = usage_.empty() ? 0 : NumberIn(usage_);
  if (const absl::StatusOr<std::string> stat = ReadSetting(zram_ + "/mm_stat"); stat.ok()) {
    // orig_data_size, compr_data_size, mem_used_total, ...: Documentation/admin-guide/blockdev/zram.rst
    const std::vector<std::string> fields = absl::StrSplit(*stat, ' ', absl::SkipWhitespace());
    uint64_t held = 0;
    if (fields.size() > 2 && absl::SimpleAtoi(fields[2], &held)) bytes += held;
  }
  return ByteCount::Bytes(bytes);
}

}  // namespace quire
