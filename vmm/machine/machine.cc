#include "vmm/machine/machine.h"

#include <sys/mman.h>

#include <algorithm>
#include <cerrno>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/thread.h"
#include "workloads/aux_area.h"
#include "workloads/fill_aux_area.h"

namespace quire {

Machine::~Machine() { QUIRE_CHECK(threads_.empty()); }

void Machine::Start() {
  running_ = vcpus();
  started_.store(true, std::memory_order_release);
  for (int i = 0; i < vcpus(); ++i) threads_.emplace_back([this, i] { VcpuThread(i); });
}

void Machine::VcpuThread(int vcpu) {
  SetThreadName(absl::StrCat("vcpu-", name_, ".", vcpu).c_str());
  VcpuTime& time = vcpu_times_[static_cast<size_t>(vcpu)];
  {
    absl::MutexLock lock(&time.lock);
    time.clock = ThreadCpuClock();
  }
  // A guest without one of its vCPUs is not that guest any more.
  if (absl::Status status = RunVcpu(vcpu); !status.ok()) Kill(status);
  {
    // The clock is not another thread's before this one has ended.
    absl::MutexLock lock(&time.lock);
    time.used += ThreadCpuTime();
    time.clock.reset();
  }
  absl::MutexLock lock(&lock_);
  ended_ = RealClock().Now();
  running_.fetch_sub(1, std::memory_order_release);
}

void Machine::TakeRest(Rest& rest, absl::FunctionRef<bool()> wanted) const {
  while (!wanted()) {
    const absl::Duration owed = rest.Owes(idle_percent_.load(std::memory_order_relaxed), RealClock().Now());
    if (owed == absl::ZeroDuration()) return;
    absl::SleepFor(owed);
  }
}

void Machine::AddLatencyOf(absl::Span<const std::byte> scratch, int vcpus, OperationLatency& sum) {
  const auto* const tables = reinterpret_cast<const OperationLatency*>(scratch.data() + kLatencyOffset);
  for (int vcpu = 0; vcpu < vcpus; ++vcpu) {
    for (uint32_t i = 0; i < OperationLatency::kBuckets; ++i) {
      sum.counts[i] += __atomic_load_n(&tables[vcpu].counts[i], __ATOMIC_RELAXED);
    }
  }
}

absl::Status Machine::MapAnonymous(ByteCount size, AnonymousBlocks blocks) {
  absl::StatusOr<Mapping> anonymous = Mapping::MapAligned(size, ByteCount::Bytes(kBlockSize), PROT_READ | PROT_WRITE,
                                                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (!anonymous.ok()) return anonymous.status();
  const bool wanted = blocks == AnonymousBlocks::kWanted;
  madvise(anonymous->data(), size.in_bytes(), wanted ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
  anonymous_ = *std::move(anonymous);
  anonymous_blocks_ = blocks;
  return absl::OkStatus();
}

void Machine::AdviseHuge(GfnRange range, bool huge) {
  if (memory_ != nullptr) return memory_->AdviseHuge(range, huge);
  if (anonymous_blocks_ != AnonymousBlocks::kAdvised) return;
  const GfnRange all(Gfn(0), PageCount::Ceil(anonymous_.size()));
  const GfnRange blocks = WholeBlocksOf(range.Intersect(all));
  if (blocks.empty()) return;
  // Advice: where the host kernel does not follow it, the guest has small pages.
  madvise(anonymous_.data() + ToGpa(blocks.begin()).value(), blocks.size().in_bytes(),
          huge ? MADV_HUGEPAGE : MADV_NOHUGEPAGE);
}

absl::Status Machine::Wire(GfnRange range) {
  absl::MutexLock lock(&wired_lock_);
  if (range.empty()) return absl::OkStatus();
  if (wired_.size() == kMostWired) {
    return absl::ResourceExhaustedError(
        absl::StrFormat("%s has %d parts of its memory wired, which is the most: unwire one", name_, kMostWired));
  }
  absl::Status status = WireMemory(range);
  if (status.ok()) wired_.push_back(range);
  return status;
}

absl::Status Machine::Unwire(GfnRange range) {
  absl::MutexLock lock(&wired_lock_);
  const auto place = std::find(wired_.begin(), wired_.end(), range);
  if (place == wired_.end()) return absl::FailedPreconditionError(absl::StrCat(name_, " has not wired that"));
  wired_.erase(place);
  UnwireMemory(range);
  return absl::OkStatus();
}

absl::Status Machine::WireMemory(GfnRange range) {
  if (memory_ != nullptr) return memory_->Wire(range);
  if (mlock(anonymous_.data() + ToGpa(range.begin()).value(), range.size().in_bytes()) == 0) return absl::OkStatus();
  return absl::ErrnoToStatus(
      errno, absl::StrFormat("locking %.1f MiB of %s in memory (ulimit -l)", range.size().bytes().in_mib(), name_));
}

// The kernel's locks do not nest: what another range has wired too is locked again.
void Machine::UnwireMemory(GfnRange range) {
  if (memory_ != nullptr) return memory_->Unwire(range);
  munlock(anonymous_.data() + ToGpa(range.begin()).value(), range.size().in_bytes());
  for (const GfnRange& other : wired_) {
    if (other.overlaps(range)) (void)WireMemory(other.Intersect(range));
  }
}

void Machine::SetGo(absl::Span<std::byte> scratch) {
  __atomic_store_n(&reinterpret_cast<AuxArea*>(scratch.data())->go, 1, __ATOMIC_RELEASE);
}

void Machine::Kill(const absl::Status& reason) {
  {
    absl::MutexLock lock(&lock_);
    if (killed() || finished()) return;
    exit_ = reason;
    killed_.store(true, std::memory_order_release);
  }
  KickVcpus();
}

void Machine::Join() {
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

absl::Status Machine::exit() const {
  absl::MutexLock lock(&lock_);
  return exit_;
}

absl::Duration Machine::vcpu_time() const {
  absl::Duration sum;
  for (VcpuTime& time : vcpu_times_) {
    absl::MutexLock lock(&time.lock);
    sum += time.used;
    if (time.clock.has_value()) sum += TimeOf(*time.clock);
  }
  return sum;
}

Machine::Progress Machine::ReadProgress() const {
  Progress sum;
  for (int i = 0; i < vcpus(); ++i) {
    const quire_progress p = ReadProgressOf(i);
    sum.operations += p.operations;
    sum.verified_pages += p.verified_pages;
    sum.mismatched_pages += p.mismatched_pages;
    sum.phase = std::min<uint64_t>(sum.phase, p.phase);
    if (p.mismatched_pages > 0 && sum.first_mismatch.empty()) {
      sum.first_mismatch = absl::StrFormat("read a wrong byte first in page %u, word %u: %#x where %#x was written",
                                           p.first_bad_page, p.first_bad_word, p.first_bad_value, p.first_bad_wanted);
    }
  }
  return sum;
}

}  // namespace quire
