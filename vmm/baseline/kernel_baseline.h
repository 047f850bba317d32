// The host kernel's side of a comparison: swap space in compressed memory (zram with lz4), a memory cgroup to run in,
// whose limit is set so that it and zram's memory together are what the pool is (zram's memory is charged to no
// cgroup), and ksmd, which merges equal pages.
//
// All of it is made for the comparison and taken down when the baseline goes; or by a janitor, if its process is
// killed.
#ifndef QUIRE_VMM_BASELINE_KERNEL_BASELINE_H_
#define QUIRE_VMM_BASELINE_KERNEL_BASELINE_H_

#include <algorithm>
#include <cstdint>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "base/units.h"
#include "vmm/baseline/host_settings.h"

namespace quire {

// What a comparison needs of the host. Any of it together.
struct KernelNeeds {
  bool swaps = false;    // swap space
  bool limited = false;  // a limit on memory
  bool merges = false;   // ksmd
};

enum class KernelTuning : uint8_t {
  kAsItComes,   // 2 MiB pages as the host's settings have them; ksmd as they have it
  kAtItsBest,   // multi-size huge pages; without 2 MiB pages where memory is limited: the kernel keeps them. ksmd with
                // settings that have it work fastest
  kSmallPages,  // 4 KiB pages only, where memory is limited: elsewhere the guests see to that (MADV_NOHUGEPAGE)
};

// A cgroup is charged for more than the guests: the process around them, KVM's tables. On Quire's side that is no part
// of the pool; so the kernel gets so much beside what the pool would be.
inline constexpr ByteCount kForTheProcess = ByteCount::MiB(8);

// What the host kernel holds for what runs in the cgroup. What the host does not tell, or was not asked for, is 0.
struct KernelMemory {
  ByteCount limit;        // of the cgroup
  ByteCount charged;      // all that it is charged for
  ByteCount resident;     // anonymous memory of it
  ByteCount huge;         // of that, in 2 MiB pages
  ByteCount zram_used;    // memory that zram takes for what is compressed
  ByteCount zram_stored;  // the same before compression
  ByteCount ksm_shared;   // frames that ksmd has several pages share; 0 while it does not merge for a run
  ByteCount ksm_sharing;  // pages that have given up their frames for one of these, or for the kernel's page of zeros
  ByteCount total() const { return charged + zram_used; }
  // What it is charged for that is no process's memory: page tables, what KVM keeps, cached files.
  ByteCount other() const { return resident == ByteCount() ? ByteCount() : charged - std::min(charged, resident); }
};

// Belongs to one thread, of a process that has no others when it is created or first prepared: that forks. One in a
// host at a time: another finds the host in use.
class KernelBaseline {
 public:
  // For guests of `memory` in all: swap space is twice that. `root` stands before all paths, for tests; with one, no
  // swap space is switched on. Errors: FailedPrecondition, with what the host lacks or who uses it.
  static absl::StatusOr<std::unique_ptr<KernelBaseline>> Create(const KernelNeeds& needs, ByteCount memory,
                                                                const std::string& root = "");
  // The same, for tests. With a root, swap space has no header.
  static absl::StatusOr<std::unique_ptr<KernelBaseline>> Create(const KernelNeeds& needs, ByteCount memory,
                                                                HostSeams seams);

  // Makes the host as the kernel's side is to have it, until the next call: after Rest(), with `tuning`; and with ksmd
  // at work if this run is to be `merged`, for which the baseline must have been created with `merges`. Errors: those
  // of Rest; FailedPrecondition: what the host lacks; what reading and writing settings reports.
  absl::Status Prepare(KernelTuning tuning, bool merged = false);
  // Makes the host as it was, but for swap space and cgroup: nothing runs there (what does is killed), ksmd has
  // forgotten all pages and stands still. Waits until
  // zram is empty of what earlier processes had there. This is also how others than the kernel's side are measured.
  // Errors: FailedPrecondition: zram is not empty, other programs have memory there; what writing settings reports.
  absl::Status Rest();

  // The limit of the cgroup.
  absl::Status SetLimit(ByteCount limit);
  // At the moment, from some files of sysfs.
  KernelMemory ReadMemory() const;
  // What the cgroup and zram hold at the moment: ReadMemory().total().
  ByteCount Usage() const;
  // Processes of the cgroup that the kernel has killed for want of memory, since it was made. 0 if it does not say.
  uint64_t OomKills() const;
  // The file that takes a process into the cgroup; empty if there is none.
  const std::string& procs() const { return procs_; }

 private:
  KernelBaseline(const KernelNeeds& needs, HostSeams seams)
      : root_(seams.root),
        needs_(needs),
        swap_on_(seams.swap.on),
        patience_(seams.patience),
        settings_(std::move(seams)) {}

  absl::Status SetUp(ByteCount memory);
  absl::Status SetUpSwap(ByteCount size);
  absl::Status SwitchOnSwap(ByteCount size);
  absl::StatusOr<std::string> FindZram();
  absl::Status SetUpCgroup();
  absl::Status SetUpMerging();
  absl::Status PrepareHugePages(KernelTuning tuning);
  // Has ksmd wait for the first page.
  absl::Status StartMerging(KernelTuning tuning);
  absl::Status WaitUntilZramIsEmpty() const;
  void ReadCgroup(KernelMemory& memory) const;
  void ReadZram(KernelMemory& memory) const;

  const std::string root_;
  const KernelNeeds needs_;
  int (*const swap_on_)(const char*, int);
  const absl::Duration patience_;
  std::string zram_;      // directory in sysfs
  std::string group_;     // directory of the cgroup
  bool unified_ = false;  // it is one of version 2
  std::string procs_;
  bool merging_ = false;  // this run is merged
  HostSettings settings_;
  size_t set_up_ = 0;  // what is beyond is for one run
};

}  // namespace quire

#endif  // QUIRE_VMM_BASELINE_KERNEL_BASELINE_H_
