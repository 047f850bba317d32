// What every workload does on each vCPU: say where whole blocks are wanted, and what is to stay in memory, fill the
// vCPU's pages, then read and write them as the spec says, and verify every page that is touched. Freestanding: also
// compiled into the payload of KVM guests.
//
// How the memory is reached is the Memory type's business:
//
//   // Calls use(uint64_t* words) with the page's kWordsPerPage words, 16-byte aligned, which it may read, and write if
//   // `write` is true. False when the page cannot be had any more (the guest must end); `use` was not called then.
//   template <class Use> bool WithPage(uint64_t page, bool write, Use use);
//
//   // Asks for whole blocks for `count` pages from `page` on. On vCPU 0 only, before any vCPU touches a page.
//   void AdviseHuge(uint64_t page, uint64_t count);
//
//   // Asks for `count` pages from `page` on to stay in memory, which may be refused. When AdviseHuge may be called,
//   and
//   // after it.
//   void Wire(uint64_t page, uint64_t count);
//
//   // The point at which the guest may be frozen, and from which its clones go on: its pages have been filled. False:
//   // it was, and this vCPU ends here.
//   bool PassFreezePoint();
//
//   // The vCPU rests for as long as boot_info->idle_percent asks for.
//   void Rest();
//
// The sequence of operations is determined by spec, seed, vCPU and number of vCPUs; only how far it gets depends on the
// time. A write first verifies the page, then writes its next version. Clones of a guest go different ways from the
// freeze point on, and write versions of their own.
#ifndef QUIRE_WORKLOADS_RUN_H_
#define QUIRE_WORKLOADS_RUN_H_

#include <stdint.h>

#include "workloads/access_pattern.h"
#include "workloads/aux_area.h"
#include "workloads/content.h"
#include "workloads/guest_abi.h"
#include "workloads/operation_latency.h"
#include "workloads/random.h"

namespace quire {

enum class RunResult {
  kFinished,      // all operations done, or told to stop; progress says whether pages were wrong
  kMemoryFailed,  // a page could not be had
  kFrozen,        // at the freeze point
};

enum class RunFrom { kStart, kFreezePoint };

template <class Memory>
class WorkloadRun {
 public:
  // One vCPU's part. `boot` and `aux` are shared with the other vCPUs and, like `memory`, must outlive the run.
  WorkloadRun(const AuxArea& aux, quire_boot_info& boot, uint32_t vcpu, Memory& memory)
      : aux_(aux),
        boot_(boot),
        progress_(boot.progress[vcpu]),
        memory_(memory),
        vcpu_(vcpu),
        page_count_(PageCountOfVcpu(aux.used_pages, vcpu, boot.vcpus)) {}

  RunResult Run(RunFrom from = RunFrom::kStart) {
    if (from == RunFrom::kStart) {
      SetPhase(0);
      if (aux_.advised_pages != 0 || aux_.wired_pages != 0) Prepare();
      if (aux_.spec.fill != 0 && !Fill()) return RunResult::kMemoryFailed;
      if (!memory_.PassFreezePoint()) return RunResult::kFrozen;
    }
    clone_ = __atomic_load_n(&boot_.clone, __ATOMIC_RELAXED);
    SetPhase(1);
    const bool sweep = aux_.spec.kind == WorkloadKind::kSweep;
    if (page_count_ != 0 && !(sweep ? Sweep() : Operate())) return RunResult::kMemoryFailed;
    SetPhase(2);
    return RunResult::kFinished;
  }

 private:
  static constexpr uint64_t kVersionsOfClone = 1 << 20;
  static constexpr uint64_t kPatternsApart = 1000003;
  static constexpr uint64_t kOperationsToRest = 64;  // looking is cheap, but leaving the guest to rest is not

  bool Stopped() const { return __atomic_load_n(&boot_.stop, __ATOMIC_RELAXED) != 0; }

  // The other vCPUs wait: what they touched before would have come in pieces.
  void Prepare() {
    if (vcpu_ == 0) {
      if (aux_.advised_pages != 0) memory_.AdviseHuge(0, aux_.advised_pages);
      if (aux_.wired_pages != 0) memory_.Wire(0, aux_.wired_pages);
      __atomic_store_n(&boot_.arrived, 1, __ATOMIC_RELEASE);
    }
    while (!Stopped() && __atomic_load_n(&boot_.arrived, __ATOMIC_ACQUIRE) == 0) asm volatile("pause");
  }

  bool Fill() {
    for (uint64_t i = 0; i < page_count_ && !Stopped(); ++i)
      if (!Access(i, true)) return false;
    return true;
  }

  bool Operate() {
    AccessPattern pattern(aux_.spec, aux_.zipf, page_count_, Mix64(boot_.seed + clone_ * kPatternsApart) + vcpu_);
    const bool limited = aux_.spec.operations != 0;
    const uint64_t limit = PageCountOfVcpu(aux_.spec.operations, vcpu_, boot_.vcpus);
    OperationLatency& latency = aux_.latency[vcpu_];
    for (uint64_t done = 0; !Stopped() && !(limited && done == limit); ++done) {
      if (done % kOperationsToRest == 0) Rest();
      const Operation operation = pattern.Next();
      const uint64_t begin = ReadTicks();
      if (!Access(operation.index, operation.write)) return false;
      latency.Count(ReadTicks() - begin);
      Set(progress_.operations, done + 1);
    }
    return true;
  }

  // One that is to rest all the time does so until it is told otherwise.
  void Rest() {
    for (uint32_t idle; !Stopped() && (idle = __atomic_load_n(&boot_.idle_percent, __ATOMIC_RELAXED)) != 0;) {
      memory_.Rest();
      if (idle < 100) return;
    }
  }

  // While it waits the vCPU is at work, as far as the host can see. What is counted are the touches; the checks follow
  // when all of them have been made.
  bool Sweep() {
    while (!Stopped() && __atomic_load_n(&aux_.go, __ATOMIC_ACQUIRE) == 0) asm volatile("pause");
    const bool write = aux_.spec.writes > 0;
    const auto touch = [](const uint64_t* words) { asm volatile("" : : "r"(*words)); };
    for (uint64_t i = 0; i < page_count_ && !Stopped(); ++i)
      if (!memory_.WithPage(PageOfVcpu(i, vcpu_, boot_.vcpus), write, touch)) return false;
    Set(progress_.operations, page_count_);
    for (uint64_t i = 0; i < page_count_ && !Stopped(); ++i)
      if (!Access(i, false)) return false;
    return true;
  }

  // Verifies the page and, if `write`, gives it its next version.
  bool Access(uint64_t index, bool write) {
    const uint64_t page = PageOfVcpu(index, vcpu_, boot_.vcpus);
    const uint32_t version = aux_.versions[page];
    const uint32_t next = NextVersion(version);
    PageCheck check;
    const bool had_page = memory_.WithPage(page, write, [&](uint64_t* words) {
      check = CheckPage(words, aux_.content, page, version);
      if (write) GeneratePage(words, aux_.content, page, next);
    });
    if (!had_page) return false;
    if (write) aux_.versions[page] = next;
    Count(page, check);
    return true;
  }

  // 0 means never written. Each clone has a million for itself, over and over.
  uint32_t NextVersion(uint32_t version) const {
    const uint32_t first = static_cast<uint32_t>(clone_ * kVersionsOfClone) + 1;
    if (clone_ != 0 && (version < first || version - first >= kVersionsOfClone - 1)) return first;
    return version + 1 != 0 ? version + 1 : 1;
  }

  void Count(uint64_t page, const PageCheck& check) {
    Set(progress_.verified_pages, progress_.verified_pages + 1);
    if (check.good) return;
    if (progress_.mismatched_pages == 0) {
      Set(progress_.first_bad_page, page);
      Set(progress_.first_bad_word, check.word);
      Set(progress_.first_bad_value, check.value);
      Set(progress_.first_bad_wanted, check.wanted);
    }
    // Release: whoever sees the count also sees the first mismatch.
    __atomic_store_n(&progress_.mismatched_pages, progress_.mismatched_pages + 1, __ATOMIC_RELEASE);
  }

  // This vCPU is the only writer; the host reads at any time.
  static void Set(uint64_t& counter, uint64_t value) { __atomic_store_n(&counter, value, __ATOMIC_RELAXED); }
  void SetPhase(uint64_t phase) { Set(progress_.phase, phase); }

  const AuxArea& aux_;
  quire_boot_info& boot_;
  quire_progress& progress_;
  Memory& memory_;
  const uint32_t vcpu_;
  const uint64_t page_count_;
  uint64_t clone_ = 0;
};

template <class Memory>
RunResult RunWorkload(const AuxArea& aux, quire_boot_info& boot, uint32_t vcpu, Memory& memory,
                      RunFrom from = RunFrom::kStart) {
  return WorkloadRun<Memory>(aux, boot, vcpu, memory).Run(from);
}

}  // namespace quire

#endif  // QUIRE_WORKLOADS_RUN_H_
