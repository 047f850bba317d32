// One guest that runs: its vCPUs, a thread each, and how they end.
#ifndef QUIRE_VMM_MACHINE_MACHINE_H_
#define QUIRE_VMM_MACHINE_MACHINE_H_

#include <time.h>

#include <atomic>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/clock.h"
#include "base/mapping.h"
#include "base/units.h"
#include "guest/guest_memory.h"
#include "vmm/machine/rest.h"
#include "workloads/guest_abi.h"
#include "workloads/operation_latency.h"

namespace quire {

// Whether anonymous memory is to have 2 MiB pages: wherever the host kernel can give them, or where the guest says.
enum class AnonymousBlocks : uint8_t { kWanted, kAdvised };

// Thread safe, except that Start and Join belong to one thread. Not movable: threads run in it.
class Machine {
 public:
  // `memory` is the guest's where it is managed, and outlives the machine; null where the host kernel has it.
  Machine(std::string name, int vcpus, GuestMemory* memory)
      : name_(std::move(name)), memory_(memory), vcpu_times_(static_cast<size_t>(vcpus)) {}
  Machine(const Machine&) = delete;
  Machine& operator=(const Machine&) = delete;
  // Every subclass has joined its threads.
  virtual ~Machine();

  void Start();
  // The guest is to finish by itself. Returns at once.
  virtual void RequestStop() = 0;
  // A guest whose workload is a sweep is to begin it.
  virtual void StartSweep() = 0;
  // The guest is to rest for `percent`, 0 to 100, of its time from now on, if its program heeds that.
  void SetIdle(int percent) {
    idle_percent_.store(percent, std::memory_order_relaxed);
    AskToRest(static_cast<uint32_t>(percent));
  }
  // Adds how long operations of the guest's workload took, as it claims; nothing of guests that run none.
  virtual void AddLatency(OperationLatency& sum) const { (void)sum; }
  // Whether Start has been called.
  bool started() const { return started_.load(std::memory_order_acquire); }
  // The guest wants whole blocks in a part of its memory, or none any more. Has no effect unless that is up to the
  // guest: GranularityOptions::advised_only, AnonymousBlocks::kAdvised.
  void AdviseHuge(GfnRange range, bool huge);
  // The guest wants pages to stay in memory (GuestMemory::Wire, or mlock(2) where the host kernel has its memory), or
  // not any more. What it unwires is a range that it has wired, and no other: devices may have wired some of the same
  // pages. May wait. Errors, which change nothing: those of GuestMemory::Wire; ResourceExhausted, it has kMostWired
  // ranges wired; FailedPrecondition, it has not wired that.
  absl::Status Wire(GfnRange range) ABSL_LOCKS_EXCLUDED(wired_lock_);
  absl::Status Unwire(GfnRange range) ABSL_LOCKS_EXCLUDED(wired_lock_);
  static constexpr size_t kMostWired = 64;
  // The guest's memory where the host kernel has it as plain anonymous memory; empty where it is managed.
  const Mapping& anonymous() const { return anonymous_; }
  // The guest ends now, with `reason` (not OK). The first reason counts, and none once it has ended. Never blocks for
  // long: callable from whoever stops a guest.
  void Kill(const absl::Status& reason);
  // When a vCPU ended last.
  MonotonicTime ended() const {
    absl::MutexLock lock(&lock_);
    return ended_;
  }
  bool finished() const { return running_.load(std::memory_order_acquire) == 0; }
  // Every vCPU has ended at the guest's freeze point: see BecomeTemplate of the subclasses.
  bool at_freeze_point() const { return finished() && frozen_.load(std::memory_order_acquire) == vcpus(); }
  void Join();
  // Once every vCPU has ended: nothing of the machine touches its memory any more.
  virtual void Quiesce() {}

  const std::string& name() const { return name_; }
  int vcpus() const { return static_cast<int>(vcpu_times_.size()); }
  // OK, or why the guest ended before its time: a sentence, perhaps followed by lines of registers.
  absl::Status exit() const;

  struct Progress {
    uint64_t operations = 0;
    uint64_t verified_pages = 0;
    uint64_t mismatched_pages = 0;
    uint64_t phase = 2;          // the least of all vCPUs
    std::string first_mismatch;  // a sentence, if there was one
  };
  // As the guest claims it.
  Progress ReadProgress() const;
  // CPU time of the vCPUs' threads.
  absl::Duration vcpu_time() const;

 protected:
  // The life of one vCPU, on its own thread. OK: the guest ended by itself with status 0, or was killed.
  virtual absl::Status RunVcpu(int vcpu) = 0;
  // Interrupts every vCPU wherever it is, so that it sees killed(). Non-blocking.
  virtual void KickVcpus() = 0;
  virtual quire_progress ReadProgressOf(int vcpu) const = 0;
  // The guest is to know that it is to rest, where there is a way to tell it.
  virtual void AskToRest(uint32_t percent) { (void)percent; }

  // A vCPU's thread, on the guest's behalf: sleeps for what it owes, unless `wanted` for something else.
  void TakeRest(Rest& rest, absl::FunctionRef<bool()> wanted) const;

  // Null where the host kernel has it.
  GuestMemory* memory() const { return memory_; }
  // A vCPU ends at the freeze point.
  void NoteFrozen() { frozen_.fetch_add(1, std::memory_order_release); }
  bool killed() const { return killed_.load(std::memory_order_acquire); }
  // Maps anonymous(), for engines without managed memory.
  absl::Status MapAnonymous(ByteCount size, AnonymousBlocks blocks);
  // Of the table in a guest's scratch area.
  static void AddLatencyOf(absl::Span<const std::byte> scratch, int vcpus, OperationLatency& sum);
  // What a sweep waits for, in a guest's scratch area.
  static void SetGo(absl::Span<std::byte> scratch);

 private:
  void VcpuThread(int vcpu);
  absl::Status WireMemory(GfnRange range);
  void UnwireMemory(GfnRange range) ABSL_EXCLUSIVE_LOCKS_REQUIRED(wired_lock_);

  const std::string name_;
  GuestMemory* const memory_;
  Mapping anonymous_;
  AnonymousBlocks anonymous_blocks_ = AnonymousBlocks::kWanted;
  absl::Mutex wired_lock_;                                    // held while one of them is being wired
  std::vector<GfnRange> wired_ ABSL_GUARDED_BY(wired_lock_);  // by the guest, one entry for each time
  std::atomic<bool> started_ = false;
  std::atomic<int> running_ = 0;
  std::atomic<int> idle_percent_ = 0;
  std::atomic<int> frozen_ = 0;  // vCPUs
  std::atomic<bool> killed_ = false;
  mutable absl::Mutex lock_;
  absl::Status exit_ ABSL_GUARDED_BY(lock_);
  MonotonicTime ended_ ABSL_GUARDED_BY(lock_);
  struct VcpuTime {
    absl::Mutex lock;
    std::optional<clockid_t> clock ABSL_GUARDED_BY(lock);  // while the thread runs
    absl::Duration used ABSL_GUARDED_BY(lock);             // by threads that have ended
  };
  mutable std::vector<VcpuTime> vcpu_times_;
  std::vector<std::thread> threads_;
};

}  // namespace quire

#endif  // QUIRE_VMM_MACHINE_MACHINE_H_
