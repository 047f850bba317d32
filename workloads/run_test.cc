#include "workloads/run.h"

#include <gtest/gtest.h>

#include <cstddef>
#include <cstring>
#include <functional>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/types/span.h"
#include "base/units.h"
#include "workloads/aux_area.h"
#include "workloads/content.h"
#include "workloads/fill_aux_area.h"
#include "workloads/guest_abi.h"
#include "workloads/spec.h"
#include "workloads/workload_spec.h"

namespace quire {
namespace {

struct alignas(16) Page {
  uint64_t words[kWordsPerPage] = {};
};

// One vCPU's view of plain memory: records the operations, and does what a test wants before each.
class PlainMemory {
 public:
  explicit PlainMemory(std::vector<Page>& pages) : pages_(pages) {}

  template <class Use>
  bool WithPage(uint64_t page, bool write, Use use) {
    if (operations.size() == fail_at) return false;
    operations.emplace_back(page, write);
    if (before_operation) before_operation(operations.size());
    Page before = pages_.at(page);
    use(pages_.at(page).words);
    if (!write) {
      EXPECT_EQ(std::memcmp(&before, &pages_[page], sizeof before), 0) << "wrote without leave";
    }
    return true;
  }

  void AdviseHuge(uint64_t page, uint64_t count) { advice.emplace_back(page, count); }
  bool PassFreezePoint() { return !freezes; }
  void Rest() {
    ++rests;
    if (at_rest) at_rest();
  }

  std::vector<std::pair<uint64_t, bool>> operations;
  void Wire(uint64_t page, uint64_t count) { wired.emplace_back(page, count); }

  std::vector<std::pair<uint64_t, uint64_t>> advice;  // first page, number of pages
  std::vector<std::pair<uint64_t, uint64_t>> wired;
  size_t fail_at = ~size_t{0};
  size_t rests = 0;
  std::function<void()> at_rest;
  bool freezes = false;  // at the freeze point
  std::function<void(size_t)> before_operation;

 private:
  std::vector<Page>& pages_;
};

class Guest {
 public:
  explicit Guest(const std::string& workload, uint32_t vcpus = 1, uint64_t pages = 100, uint64_t seed = 1)
      : Guest(*ParseWorkload(workload), vcpus, pages, seed) {}
  explicit Guest(const WorkloadSpec& spec, uint32_t vcpus = 1, uint64_t pages = 100, uint64_t seed = 1)
      : memory(pages), parameters_{spec, Content{.key = 5}, PageCount(pages), vcpus} {
    boot.magic = QUIRE_ABI_MAGIC;
    boot.vcpus = vcpus;
    boot.seed = seed;
    scratch_.resize(AuxScratchSize(parameters_).in_bytes());
    FillAuxArea(parameters_, reinterpret_cast<uint64_t>(scratch_.data()), absl::MakeSpan(scratch_));
  }

  AuxArea& aux() { return *reinterpret_cast<AuxArea*>(scratch_.data()); }
  quire_progress& progress(uint32_t vcpu = 0) { return boot.progress[vcpu]; }

  std::vector<Page> memory;
  quire_boot_info boot = {};

 private:
  AuxParameters parameters_;
  std::vector<std::byte> scratch_;
};

TEST(RunWorkload, EveryWorkloadVerifiesEveryPageItTouches) {
  for (const WorkloadInfo& workload : Workloads()) {
    Guest guest(std::string(workload.name) + ":operations=5000");
    PlainMemory memory(guest.memory);
    EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 0, memory), RunResult::kFinished);
    EXPECT_EQ(memory.operations.size(), 5100u) << workload.name;
    EXPECT_EQ(guest.progress().operations, 5000u);
    EXPECT_EQ(guest.progress().verified_pages, 5100u);
    EXPECT_EQ(guest.progress().mismatched_pages, 0u);
    EXPECT_EQ(guest.progress().phase, 2u);
  }
}

TEST(RunWorkload, LeavesEachPageAtItsVersion) {
  Guest guest("random:operations=3000");
  PlainMemory memory(guest.memory);
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  std::vector<uint32_t> writes(100);
  for (const auto& [page, write] : memory.operations) writes[page] += write;
  for (uint64_t page = 0; page < 100; ++page) {
    EXPECT_EQ(guest.aux().versions[page], writes[page]);
    EXPECT_TRUE(IsPageRight(guest.memory[page].words, guest.aux().content, page, writes[page]));
  }
}

TEST(RunWorkload, FillsEveryPageOnceBeforeAnythingElse) {
  Guest guest("random:operations=10");
  PlainMemory memory(guest.memory);
  uint64_t phase_at_last_fill = 7, phase_after = 7;
  memory.before_operation = [&](size_t operation) {
    if (operation == 100) phase_at_last_fill = guest.progress().phase;
    if (operation == 101) phase_after = guest.progress().phase;
  };
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  for (uint64_t page = 0; page < 100; ++page) EXPECT_EQ(memory.operations[page], std::make_pair(page, true));
  EXPECT_EQ(phase_at_last_fill, 0u);
  EXPECT_EQ(phase_after, 1u);
}

TEST(RunWorkload, ClonesGoOnFromTheFreezePointEachItsOwnWay) {
  Guest guest("random:operations=300,writes=0.5");
  PlainMemory memory(guest.memory);
  memory.freezes = true;
  EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 0, memory), RunResult::kFrozen);
  EXPECT_EQ(guest.progress().operations, 0u);
  EXPECT_EQ(guest.progress().verified_pages, 100u) << "filled";
  const std::vector<Page> frozen = guest.memory;
  const std::vector<uint32_t> versions(guest.aux().versions, guest.aux().versions + 100);
  std::vector<std::vector<std::pair<uint64_t, bool>>> operations;
  std::vector<std::vector<Page>> pages;
  for (uint64_t clone : {1, 2, 1}) {
    guest.memory = frozen;
    std::copy(versions.begin(), versions.end(), guest.aux().versions);
    guest.boot.progress[0] = {};
    guest.boot.clone = clone;
    PlainMemory view(guest.memory);
    EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 0, view, RunFrom::kFreezePoint), RunResult::kFinished);
    EXPECT_EQ(guest.progress().operations, 300u);
    EXPECT_EQ(guest.progress().mismatched_pages, 0u);
    operations.push_back(view.operations);
    pages.push_back(guest.memory);
    for (uint64_t page = 0; page < 100; ++page) {
      const uint32_t version = guest.aux().versions[page];
      EXPECT_TRUE(version == 1 || version >> 20 == clone) << version;
    }
  }
  EXPECT_NE(operations[0], operations[1]);
  EXPECT_EQ(operations[0], operations[2]);
  EXPECT_NE(std::memcmp(pages[0].data(), pages[1].data(), 100 * sizeof(Page)), 0);
}

TEST(RunWorkload, TouchedLimitsThePagesUsed) {
  Guest guest("random:touched=0.3,operations=1000");
  PlainMemory memory(guest.memory);
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  for (const auto& [page, write] : memory.operations) ASSERT_LT(page, 30u);
}

TEST(RunWorkload, MemoryThatIsNotZeroAtFirstIsAMismatch) {
  Guest guest("scan:operations=1");
  guest.memory[40].words[511] = 1;  // another guest's leavings
  PlainMemory memory(guest.memory);
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  EXPECT_EQ(guest.progress().mismatched_pages, 1u);
  EXPECT_EQ(guest.progress().first_bad_page, 40u);
  EXPECT_EQ(guest.progress().first_bad_word, 511u);
}

uint64_t NonzeroPage(const Content& content) {
  uint64_t page = 10;
  while (IsZeroPage(content, page, 1)) ++page;
  return page;
}

TEST(RunWorkload, FirstMismatchIsRecordedAndTheRunGoesOn) {
  Guest guest("scan:writes=0,operations=300");
  const uint64_t bad = NonzeroPage(guest.aux().content);
  PlainMemory memory(guest.memory);
  uint64_t right = 0;
  memory.before_operation = [&](size_t operation) {
    if (operation != 101) return;
    right = guest.memory[bad].words[77];
    guest.memory[bad].words[77] = 0xbad;
    guest.memory[bad + 50].words[3] ^= 1;
  };
  EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 0, memory), RunResult::kFinished);
  const quire_progress& progress = guest.progress();
  EXPECT_EQ(progress.mismatched_pages, 6u);  // two pages, three passes
  EXPECT_EQ(progress.first_bad_page, bad);
  EXPECT_EQ(progress.first_bad_word, 77u);
  EXPECT_EQ(progress.first_bad_value, 0xbadu);
  EXPECT_EQ(progress.first_bad_wanted, right);
  EXPECT_EQ(progress.operations, 300u);
}

TEST(RunWorkload, StaleAndSwappedPagesAreMismatches) {
  Guest guest("touch:operations=200");  // one pass writes, one reads
  const uint64_t stale = NonzeroPage(guest.aux().content);
  PlainMemory memory(guest.memory);
  Page old;
  memory.before_operation = [&](size_t operation) {
    if (operation == 101) old = guest.memory[stale];  // version 1
    if (operation == 201) guest.memory[stale] = old;  // instead of 2
    if (operation == 201) std::swap(guest.memory[0], guest.memory[1]);
  };
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  const Content& content = guest.aux().content;
  const uint64_t swapped = IsZeroPage(content, 0, 1) && IsZeroPage(content, 1, 1) ? 0 : 2;
  EXPECT_EQ(guest.progress().mismatched_pages, 1 + swapped);
}

TEST(RunWorkload, WriteVerifiesBeforeItWritesAndHeals) {
  Guest guest("scan:writes=1,operations=200");
  const uint64_t bad = NonzeroPage(guest.aux().content);
  PlainMemory memory(guest.memory);
  memory.before_operation = [&](size_t operation) {
    if (operation == 101) guest.memory[bad] = Page();
  };
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  EXPECT_EQ(guest.progress().mismatched_pages, 1u);
}

TEST(RunWorkload, SameSeedRepeatsTheSameOperations) {
  const auto operations = [](uint64_t seed, uint32_t vcpu) {
    Guest guest("zipf:operations=2000,advise=0", 2, 101, seed);
    PlainMemory memory(guest.memory);
    RunWorkload(guest.aux(), guest.boot, vcpu, memory);
    return memory.operations;
  };
  EXPECT_EQ(operations(7, 0), operations(7, 0));
  EXPECT_EQ(operations(7, 1), operations(7, 1));
  EXPECT_NE(operations(7, 0), operations(8, 0));
}

TEST(RunWorkload, VcpusShareTheWorkAndNoPage) {
  constexpr uint32_t kVcpus = 4;
  Guest guest("zipf:operations=10002,scatter=1", kVcpus, 103);
  std::vector<PlainMemory> memories(kVcpus, PlainMemory(guest.memory));
  std::vector<std::thread> threads;
  for (uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu)
    threads.emplace_back([&, vcpu] { RunWorkload(guest.aux(), guest.boot, vcpu, memories[vcpu]); });
  for (std::thread& thread : threads) thread.join();
  uint64_t operations = 0, verified = 0;
  for (uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) {
    for (const auto& [page, write] : memories[vcpu].operations) ASSERT_EQ(page % kVcpus, vcpu);
    operations += guest.progress(vcpu).operations;
    verified += guest.progress(vcpu).verified_pages;
    EXPECT_EQ(guest.progress(vcpu).mismatched_pages, 0u);
  }
  EXPECT_EQ(operations, 10002u);
  EXPECT_EQ(verified, 10002u + 103u);
}

TEST(RunWorkload, WholeBlocksAreAskedForByVcpu0BeforeAnyVcpuTouchesAPage) {
  constexpr uint32_t kVcpus = 3;
  Guest guest("scan:operations=300,touched=0.5,advise=0.5", kVcpus, 100);
  std::vector<PlainMemory> memories(kVcpus, PlainMemory(guest.memory));
  // Written by vCPU 0 and read by the others once they touch a page: that orders the accesses, or ThreadSanitizer
  // tells.
  for (uint32_t vcpu = 0; vcpu < kVcpus; ++vcpu) {
    memories[vcpu].before_operation = [&](size_t) { EXPECT_EQ(memories[0].advice.size(), 1u); };
  }
  std::vector<std::thread> threads;
  for (uint32_t vcpu = kVcpus; vcpu-- > 0;)
    threads.emplace_back([&, vcpu] { RunWorkload(guest.aux(), guest.boot, vcpu, memories[vcpu]); });
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(memories[0].advice[0], std::make_pair(uint64_t{0}, uint64_t{25}));
  for (uint32_t vcpu = 1; vcpu < kVcpus; ++vcpu) EXPECT_TRUE(memories[vcpu].advice.empty());
}

TEST(RunWorkload, PagesAreWiredByVcpu0BeforeAnyVcpuTouchesAPage) {
  for (const std::string advise : {"1", "0"}) {
    Guest guest("scan:operations=300,touched=0.5,wired=0.5,advise=" + advise, 2, 100);
    std::vector<PlainMemory> memories(2, PlainMemory(guest.memory));
    for (PlainMemory& memory : memories) {
      memory.before_operation = [&](size_t) { EXPECT_EQ(memories[0].wired.size(), 1u); };
    }
    for (uint32_t vcpu = 0; vcpu < 2; ++vcpu) RunWorkload(guest.aux(), guest.boot, vcpu, memories[vcpu]);
    ASSERT_EQ(memories[0].wired.size(), 1u);
    EXPECT_EQ(memories[0].wired[0], std::make_pair(uint64_t{0}, uint64_t{25}));
    EXPECT_TRUE(memories[1].wired.empty());
    EXPECT_EQ(memories[0].advice.size(), advise == "1" ? 1u : 0u);
  }
}

TEST(RunWorkload, NothingIsAskedForAndNobodyWaitsWithoutAShareToAdvise) {
  Guest guest("scan:operations=10,advise=0", 2);
  PlainMemory memory(guest.memory);
  EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 1, memory), RunResult::kFinished);
  EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 0, memory), RunResult::kFinished);
  EXPECT_TRUE(memory.advice.empty());
  EXPECT_TRUE(memory.wired.empty());
}

TEST(RunWorkload, AVcpuThatWaitsForTheAdviceStopsWhenToldTo) {
  Guest guest("scan", 2);
  guest.boot.stop = 1;
  PlainMemory memory(guest.memory);
  EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 1, memory), RunResult::kFinished);
  EXPECT_TRUE(memory.operations.empty());
}

TEST(RunWorkload, VcpusWithoutPagesFinish) {
  Guest guest("zipf:advise=0", 4, 2);
  PlainMemory memory(guest.memory);
  EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 3, memory), RunResult::kFinished);
  EXPECT_TRUE(memory.operations.empty());
  EXPECT_EQ(guest.progress(3).phase, 2u);
}

TEST(RunWorkload, StopsWhenToldTo) {
  for (size_t when : {50, 1000}) {  // while filling, and after
    Guest guest("random");
    PlainMemory memory(guest.memory);
    memory.before_operation = [&](size_t operation) {
      if (operation == when) __atomic_store_n(&guest.boot.stop, 1, __ATOMIC_RELAXED);
    };
    EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 0, memory), RunResult::kFinished);
    EXPECT_EQ(memory.operations.size(), when);
    EXPECT_EQ(guest.progress().phase, 2u);
  }
}

TEST(RunWorkload, EndsWhenAPageCannotBeHad) {
  for (size_t when : {50, 1000}) {
    Guest guest("random");
    PlainMemory memory(guest.memory);
    memory.fail_at = when;
    EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 0, memory), RunResult::kMemoryFailed);
    EXPECT_EQ(guest.progress().verified_pages, when);
    EXPECT_NE(guest.progress().phase, 2u);
  }
}

WorkloadSpec SweepSpec(uint64_t fill) {
  WorkloadSpec spec;
  spec.kind = WorkloadKind::kSweep;
  spec.fill = fill;
  return spec;
}

TEST(RunWorkload, ASweepTouchesEachPageInOrderAndThenVerifiesThemAll) {
  for (const uint64_t fill : {0, 1}) {
    Guest guest(SweepSpec(fill));
    guest.aux().go = 1;
    PlainMemory memory(guest.memory);
    uint64_t swept = 0;
    memory.before_operation = [&](size_t operation) {
      if (operation == 100 * (fill + 1) + 1) swept = guest.progress().operations;
    };
    EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 0, memory), RunResult::kFinished);
    ASSERT_EQ(memory.operations.size(), 100 * (fill + 2));
    for (uint64_t page = 0; page < 100; ++page) {
      EXPECT_EQ(memory.operations[100 * fill + page], std::make_pair(page, true));
      EXPECT_EQ(memory.operations[100 * (fill + 1) + page], std::make_pair(page, false));
    }
    EXPECT_EQ(swept, 100u);
    EXPECT_EQ(guest.progress().verified_pages, 100 * (fill + 1));
    EXPECT_EQ(guest.progress().mismatched_pages, 0u);
  }
}

TEST(RunWorkload, ASweepWaitsForTheHostsWordOrForTheEnd) {
  for (const bool stop : {false, true}) {
    Guest guest(SweepSpec(1));
    PlainMemory memory(guest.memory);
    std::thread vcpu([&] { RunWorkload(guest.aux(), guest.boot, 0, memory); });
    while (__atomic_load_n(&guest.progress().phase, __ATOMIC_RELAXED) == 0) std::this_thread::yield();
    EXPECT_EQ(__atomic_load_n(&guest.progress().operations, __ATOMIC_RELAXED), 0u);
    if (stop) __atomic_store_n(&guest.boot.stop, 1, __ATOMIC_RELAXED);
    if (!stop) __atomic_store_n(&guest.aux().go, 1, __ATOMIC_RELEASE);
    vcpu.join();
    EXPECT_EQ(guest.progress().phase, 2u);
    EXPECT_EQ(memory.operations.size(), stop ? 100u : 300u);
  }
}

TEST(RunWorkload, VersionsNeverWrapToZero) {
  Guest guest("scan:writes=1,operations=100");
  PlainMemory memory(guest.memory);
  memory.before_operation = [&](size_t operation) {
    if (operation != 100) return;
    guest.aux().versions[0] = ~0u;
    GeneratePage(guest.memory[0].words, guest.aux().content, 0, ~0u);
  };
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  EXPECT_EQ(guest.aux().versions[0], 1u);
  EXPECT_EQ(guest.progress().mismatched_pages, 0u);
}

TEST(Rest, AGuestThatIsNotAskedToNeverRests) {
  Guest guest("random:operations=1000");
  PlainMemory memory(guest.memory);
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  EXPECT_EQ(memory.rests, 0u);
}

TEST(Rest, AGuestThatIsAskedToRestsNowAndThenAndDoesAllItsWork) {
  Guest guest("random:operations=1000");
  guest.boot.idle_percent = 50;
  PlainMemory memory(guest.memory);
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  EXPECT_EQ(memory.rests, 16u);
  EXPECT_EQ(guest.progress().operations, 1000u);
}

TEST(Rest, AGuestThatIsToRestAllTheTimeWorksOnWhenItIsTold) {
  Guest guest("random:operations=1000");
  guest.boot.idle_percent = 100;
  PlainMemory memory(guest.memory);
  memory.at_rest = [&] {
    EXPECT_EQ(guest.progress().operations, 0u);
    if (memory.rests == 10) guest.boot.idle_percent = 0;
  };
  RunWorkload(guest.aux(), guest.boot, 0, memory);
  EXPECT_EQ(memory.rests, 10u);
  EXPECT_EQ(guest.progress().operations, 1000u);
}

TEST(Rest, AGuestThatRestsAllTheTimeEndsWhenItIsTold) {
  Guest guest("random");
  guest.boot.idle_percent = 100;
  PlainMemory memory(guest.memory);
  memory.at_rest = [&] { guest.boot.stop = 1; };
  EXPECT_EQ(RunWorkload(guest.aux(), guest.boot, 0, memory), RunResult::kFinished);
  EXPECT_LE(guest.progress().operations, 1u);
}

TEST(Latency, EveryOperationIsCountedOnceAndNoneOfTheFilling) {
  Guest guest("random:operations=1000", /*vcpus=*/2);
  for (uint32_t vcpu = 0; vcpu < 2; ++vcpu) {
    PlainMemory memory(guest.memory);
    RunWorkload(guest.aux(), guest.boot, vcpu, memory);
    uint64_t counted = 0;
    for (const uint64_t count : guest.aux().latency[vcpu].counts) counted += count;
    EXPECT_EQ(counted, 500u);
  }
}

TEST(AuxArea, UsedPagesIsAtLeastOneAndAtMostAll) {
  WorkloadSpec spec;
  spec.touched = 0.001;
  EXPECT_EQ(UsedPages(spec, PageCount(1)), PageCount(1));
  EXPECT_EQ(UsedPages(spec, PageCount(100000)), PageCount(100));
  spec.touched = 1;
  EXPECT_EQ(UsedPages(spec, PageCount(100003)), PageCount(100003));
}

TEST(AuxArea, PagesToWireAreAShareOfThoseUsed) {
  WorkloadSpec spec;
  EXPECT_EQ(PagesToWire(spec, PageCount(1000)), PageCount());
  spec.touched = 0.5;
  spec.wired = 0.5;
  EXPECT_EQ(PagesToWire(spec, PageCount(1000)), PageCount(250));
  spec.wired = 1;
  EXPECT_EQ(PagesToWire(spec, PageCount(1)), PageCount(1));
}

TEST(AuxArea, AdvisedPagesAreAShareOfThoseUsed) {
  WorkloadSpec spec;
  EXPECT_EQ(AdvisedPages(spec, PageCount(100003)), PageCount(100003));
  spec.touched = 0.5;
  spec.advise = 0.5;
  EXPECT_EQ(AdvisedPages(spec, PageCount(1000)), PageCount(250));
  spec.advise = 0;
  EXPECT_EQ(AdvisedPages(spec, PageCount(1000)), PageCount());
}

TEST(AuxArea, ScratchIsSmallAndPointsIntoItself) {
  const AuxParameters parameters{*ParseWorkload("zipf"), Content(), PageCount(65536), 2};
  const ByteCount size = AuxScratchSize(parameters);
  EXPECT_LT(size.in_bytes(), 65536 * 4 + 40000);
  EXPECT_TRUE(size.page_aligned());
  std::vector<std::byte> scratch(size.in_bytes());
  FillAuxArea(parameters, QUIRE_AUX, absl::MakeSpan(scratch));
  const AuxArea& area = *reinterpret_cast<const AuxArea*>(scratch.data());
  const uint64_t latency = reinterpret_cast<uint64_t>(area.latency);
  const uint64_t versions = reinterpret_cast<uint64_t>(area.versions);
  EXPECT_EQ(latency, QUIRE_AUX + kLatencyOffset);
  EXPECT_GE(versions, latency + 2 * sizeof(OperationLatency));
  EXPECT_LE(versions + 65536 * sizeof(uint32_t), QUIRE_AUX + size.in_bytes());
  EXPECT_EQ(area.zipf.ranks, 32768u);
}

}  // namespace
}  // namespace quire
