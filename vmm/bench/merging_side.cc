#include "vmm/bench/merging_side.h"

#include <sys/mman.h>

#include <cerrno>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/mapping.h"
#include "guest/guest_memory.h"
#include "guest/memory_manager.h"
#include "guest/merge/merger.h"
#include "mmu/ept.h"
#include "vmm/baseline/ksm.h"
#include "vmm/baseline/setting.h"

namespace quire {
namespace {

// Guests behind software EPTs, which have each page mapped and must let go of it when it is merged.
class QuireSide final : public MergingSide {
 public:
  explicit QuireSide(std::unique_ptr<MemoryManager> manager) : manager_(std::move(manager)) {}
  ~QuireSide() override { manager_->merger().Stop(); }

  absl::Status AddGuest(PageCount memory) {
    const absl::StatusOr<GuestMemory*> guest = manager_->AddGuest(memory, Placement::kArena);
    if (!guest.ok()) return guest.status();
    mmus_.push_back(std::make_unique<Ept>(**guest));
    vcpus_.push_back(std::make_unique<EptVcpu>(*mmus_.back()));
    return absl::OkStatus();
  }

  absl::Status WithPage(int guest, Gfn gfn, Access access, absl::FunctionRef<void(std::byte*)> use) override {
    return vcpus_[static_cast<size_t>(guest)]->WithPage(gfn, access, use);
  }
  absl::Status StartScanner() override {
    manager_->merger().SetOn(true);
    manager_->merger().Start();
    return absl::OkStatus();
  }
  absl::StatusOr<ScanProgress> Look() override {
    const MergeCounters& counters = manager_->merger().counters();
    // Nothing is written to meanwhile, so that what has been merged stays so.
    return ScanProgress{.saved = PageCount(counters.merged.value() + counters.zero.value()),
                        .cpu = manager_->merger().cpu_time(),
                        .scanned = counters.scanned.value(),
                        .skipped = counters.skipped.value(),
                        .passes = counters.passes.value()};
  }

 private:
  // A secondary MMU leaves before the memory that it maps, and its vCPUs before it.
  const std::unique_ptr<MemoryManager> manager_;
  std::vector<std::unique_ptr<Ept>> mmus_;
  std::vector<std::unique_ptr<EptVcpu>> vcpus_;
};

class KernelSide final : public MergingSide {
 public:
  explicit KernelSide(std::string schedstat) : schedstat_(std::move(schedstat)) {}

  absl::Status AddGuest(PageCount memory) {
    absl::StatusOr<Mapping> mapping =
        Mapping::Map(memory.bytes(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (!mapping.ok()) return mapping.status();
    madvise(mapping->data(), mapping->size().in_bytes(), MADV_NOHUGEPAGE);
    guests_.push_back(*std::move(mapping));
    return absl::OkStatus();
  }

  absl::Status WithPage(int guest, Gfn gfn, Access, absl::FunctionRef<void(std::byte*)> use) override {
    use(guests_[static_cast<size_t>(guest)].data() + gfn.value() * kPageSize);
    return absl::OkStatus();
  }
  absl::Status StartScanner() override {
    absl::StatusOr<ScanProgress> now = LookAtHost();
    if (!now.ok()) return now.status();
    before_ = *now;
    for (const Mapping& guest : guests_) {
      if (madvise(guest.data(), guest.size().in_bytes(), MADV_MERGEABLE) == 0) continue;
      return absl::ErrnoToStatus(errno, "have the host kernel merge memory (MADV_MERGEABLE)");
    }
    return absl::OkStatus();
  }
  absl::StatusOr<ScanProgress> Look() override {
    const absl::StatusOr<ScanProgress> now = LookAtHost();
    if (!now.ok()) return now;
    return ScanProgress{.saved = now->saved,
                        .cpu = now->cpu - before_.cpu,
                        .scanned = now->scanned - before_.scanned,
                        .skipped = now->skipped - before_.skipped,
                        .passes = now->passes - before_.passes};
  }

 private:
  absl::StatusOr<ScanProgress> LookAtHost() const {
    const absl::StatusOr<KsmCounters> counters = ReadKsmCounters();
    if (!counters.ok()) return counters.status();
    const absl::StatusOr<absl::Duration> cpu = ReadRunTime(schedstat_);
    if (!cpu.ok()) return cpu.status();
    return ScanProgress{.saved = counters->saved(),
                        .cpu = *cpu,
                        .scanned = counters->scanned,
                        .skipped = counters->skipped,
                        .passes = counters->passes};
  }

  const std::string schedstat_;
  std::vector<Mapping> guests_;
  ScanProgress before_;
};

template <class Side>
absl::StatusOr<std::unique_ptr<MergingSide>> WithGuests(std::unique_ptr<Side> side, const MergingOptions& options) {
  for (int guest = 0; guest < options.guests; ++guest) {
    if (absl::Status status = side->AddGuest(options.memory); !status.ok()) return status;
  }
  return side;
}

}  // namespace

absl::StatusOr<std::unique_ptr<MergingSide>> MakeQuireSide(const MergingOptions& options) {
  absl::StatusOr<std::unique_ptr<MemoryManager>> manager =
      MemoryManager::Create({.limit = options.pool, .reservations = {}, .granularity = {.blocks = false}});
  if (!manager.ok()) return manager.status();
  return WithGuests(std::make_unique<QuireSide>(*std::move(manager)), options);
}

absl::StatusOr<std::unique_ptr<MergingSide>> MakeKernelSide(const MergingOptions& options) {
  const absl::StatusOr<std::string> running = ReadSetting(absl::StrCat(kKsmDirectory, "/run"));
  if (!running.ok()) return absl::FailedPreconditionError(absl::StrCat("no KSM: ", running.status().message()));
  if (*running != "1") {
    return absl::FailedPreconditionError(absl::StrCat("KSM is off: write 1 to ", kKsmDirectory, "/run"));
  }
  absl::StatusOr<std::string> schedstat = FindKsmdSchedstat();
  if (!schedstat.ok()) return absl::FailedPreconditionError(schedstat.status().message());
  return WithGuests(std::make_unique<KernelSide>(*std::move(schedstat)), options);
}

}  // namespace quire
