// The very bytes of the guest programs, run in this process (testing/native_guest.h).
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>

#include <cstddef>
#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/types/span.h"
#include "base/mapping.h"
#include "base/units.h"
#include "workloads/aux_area.h"
#include "workloads/content.h"
#include "workloads/fill_aux_area.h"
#include "workloads/guest_abi.h"
#include "workloads/payload/embedded_payload.h"
#include "workloads/payload/testing/guest_programs.h"
#include "workloads/payload/testing/native_guest.h"
#include "workloads/spec.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

// A guest with an aux area for Quire's own payload.
class WorkloadGuest : public NativeGuest {
 public:
  WorkloadGuest(const std::string& workload, Content content, uint64_t pages, uint32_t vcpus)
      : NativeGuest(PageCount(pages).bytes(), vcpus, 11) {
    const AuxParameters parameters{*ParseWorkload(workload), content, PageCount(pages), vcpus};
    const ByteCount size = AuxScratchSize(parameters);
    scratch_ = *Mapping::Map(size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FillAuxArea(parameters, scratch_.hva().value(), {scratch_.data(), size.in_bytes()});
    boot().aux = scratch_.hva().value();
    boot().aux_bytes = size.in_bytes();
  }

  const AuxArea& aux() const { return *reinterpret_cast<const AuxArea*>(scratch_.data()); }

 private:
  Mapping scratch_;
};

TEST(GuestPrograms, LieWhereTheAbiSays) {
  for (absl::Span<const std::byte> program :
       {WorkloadPayload(), HelloProgram(), Exit3Program(), InfiniteLoopProgram(), ReadBeyondMemoryProgram(),
        InvalidInstructionProgram(), UnknownPortProgram(), BadAdviceProgram(), WireProgram()}) {
    const ProgramImage image = ImageOf(program);
    EXPECT_GE(image.begin, QUIRE_IMAGE_BEGIN);
    EXPECT_LE(image.end, QUIRE_IMAGE_END);
    EXPECT_GE(image.entry, image.begin);
    EXPECT_LT(image.entry, image.end);
    EXPECT_LT(image.end - image.begin, 64u << 10);
    EXPECT_LT(program.size(), 64u << 10);
  }
}

// The payload is compiled with other options than the host; what it writes is what the host's build of content.h wants.
TEST(Payload, RunsEveryWorkloadAsTheHostWould) {
  for (const WorkloadInfo& workload : Workloads()) {
    WorkloadGuest guest(std::string(workload.name) + ":operations=3000", Content{.key = 8}, 200, 2);
    for (uint64_t vcpu = 0; vcpu < 2; ++vcpu) {
      const NativeOutcome outcome = guest.Run(WorkloadPayload(), vcpu);
      EXPECT_EQ(outcome.kind, NativeOutcome::kExit) << "signal " << outcome.signal;
      EXPECT_EQ(outcome.status, 0u);
      EXPECT_EQ(outcome.console, "");
      EXPECT_EQ(guest.boot().progress[vcpu].operations, 1500u);
      EXPECT_EQ(guest.boot().progress[vcpu].verified_pages, 1600u);
      EXPECT_EQ(guest.boot().progress[vcpu].mismatched_pages, 0u);
    }
    uint64_t writes = 0;
    for (uint64_t page = 0; page < 200; ++page) {
      writes += guest.aux().versions[page];
      EXPECT_TRUE(IsPageRight(guest.page(page), guest.aux().content, page, guest.aux().versions[page])) << page;
    }
    EXPECT_GT(writes, 400u);
  }
}

TEST(Payload, Vcpu0AsksForWholeBlocksForTheShareThatItIsToldAndTheOthersLeaveItToIt) {
  for (const WorkloadInfo& workload : Workloads()) {
    WorkloadGuest guest(absl::StrCat(workload.name, ":operations=2,touched=0.5,advise=0.25"), Content(), 200, 2);
    const NativeOutcome first = guest.Run(WorkloadPayload(), 0);
    ASSERT_EQ(first.advice.size(), 1u) << workload.name;
    EXPECT_EQ(first.advice[0].value, QUIRE_ADVISE_HUGE);
    EXPECT_EQ(first.advice[0].begin, 0u);
    EXPECT_EQ(first.advice[0].bytes, 25 * kPageSize);
    EXPECT_TRUE(guest.Run(WorkloadPayload(), 1).advice.empty());
  }
}

TEST(Payload, WiresTheShareThatItIsToldAndGoesOnIfItMayNot) {
  for (const uint64_t answer : {QUIRE_WIRE_DONE, QUIRE_WIRE_REFUSED}) {
    WorkloadGuest guest("scan:operations=2,touched=0.5,wired=0.25", Content(), 200, 1);
    guest.boot().wire_answer = answer;
    const NativeOutcome outcome = guest.Run(WorkloadPayload(), 0);
    EXPECT_EQ(outcome.status, 0u);
    ASSERT_EQ(outcome.wire_requests.size(), 1u);
    EXPECT_EQ(outcome.wire_requests[0].value, QUIRE_WIRE);
    EXPECT_EQ(outcome.wire_requests[0].begin, 0u);
    EXPECT_EQ(outcome.wire_requests[0].bytes, 25 * kPageSize);
    EXPECT_EQ(outcome.console,
              answer == QUIRE_WIRE_DONE ? "" : "quire workload: 25 pages may not be wired; it goes on without that\n");
  }
}

TEST(Payload, AsksForNothingWhenItIsTo) {
  WorkloadGuest guest("scan:operations=2,advise=0", Content(), 50, 2);
  EXPECT_TRUE(guest.Run(WorkloadPayload(), 1).advice.empty());  // and does not wait for vCPU 0
  const NativeOutcome first = guest.Run(WorkloadPayload(), 0);
  EXPECT_TRUE(first.advice.empty());
  EXPECT_TRUE(first.wire_requests.empty());
}

TEST(Payload, FillsPagesFromAFile) {
  alignas(16) static uint64_t file[3 * kWordsPerPage];
  for (uint64_t i = 0; i < std::size(file); ++i) file[i] = i;
  WorkloadGuest guest("random:operations=500", Content{.key = 8, .file_pages = file, .file_page_count = 3}, 50, 1);
  EXPECT_EQ(guest.Run(WorkloadPayload(), 0).status, 0u);
  for (uint64_t page = 0; page < 50; ++page)
    EXPECT_TRUE(IsPageRight(guest.page(page), guest.aux().content, page, guest.aux().versions[page]));
}

TEST(Payload, SaysWhatWasWrong) {
  WorkloadGuest guest("scan:operations=10", Content{.key = 8}, 50, 1);
  guest.page(17)[5] = 0x1234;  // not zero at first
  const NativeOutcome outcome = guest.Run(WorkloadPayload(), 0);
  EXPECT_EQ(outcome.status, 1u);
  EXPECT_EQ(outcome.console,
            "quire workload: vCPU 0 read 1 wrong pages; first word 5 of page 17: 0x0000000000001234 instead of "
            "0x0000000000000000\n");
}

TEST(Payload, RefusesABootInfoOfAnotherVersion) {
  WorkloadGuest guest("scan", Content(), 10, 1);
  guest.boot().version = QUIRE_ABI_VERSION + 1;
  NativeOutcome outcome = guest.Run(WorkloadPayload(), 0);
  EXPECT_EQ(outcome.status, 2u);
  EXPECT_THAT(outcome.console, HasSubstr("bad boot info"));
  guest.boot().version = QUIRE_ABI_VERSION;
  guest.boot().aux_bytes = 16;
  outcome = guest.Run(WorkloadPayload(), 0);
  EXPECT_EQ(outcome.status, 2u);
  EXPECT_THAT(outcome.console, HasSubstr("bad aux area"));
}

TEST(HelloProgram, SaysHelloAndUsesItsMemory) {
  NativeGuest guest(PageCount(64).bytes(), 2, 1);
  for (uint64_t vcpu : {0, 1}) {
    const NativeOutcome outcome = guest.Run(HelloProgram(), vcpu);
    EXPECT_EQ(outcome.kind, NativeOutcome::kExit);
    EXPECT_EQ(outcome.status, 0u);
    EXPECT_EQ(outcome.console, vcpu == 0 ? "hello from a guest\n" : "");
    EXPECT_EQ(guest.boot().progress[vcpu].operations, 32u);
    EXPECT_EQ(guest.boot().progress[vcpu].phase, 2u);
  }
  EXPECT_EQ(guest.page(63)[0], 63u);
}

TEST(TestPrograms, EndAsTheirNamesSay) {
  NativeGuest guest(PageCount(4).bytes(), 1, 1);
  const NativeOutcome exit = guest.Run(Exit3Program(), 0);
  EXPECT_EQ(exit.kind, NativeOutcome::kExit);
  EXPECT_EQ(exit.status, 3u);
  const NativeOutcome port = guest.Run(UnknownPortProgram(), 0);
  EXPECT_EQ(port.kind, NativeOutcome::kUnknownPort);
  EXPECT_EQ(port.port, 0x1234);
  for (uint64_t seed = 0; seed < kBadAdviceCases; ++seed) {
    guest.boot().seed = seed;
    const NativeOutcome advice = guest.Run(BadAdviceProgram(), 0);
    EXPECT_EQ(advice.status, 99u) << "where nobody ends it";
    EXPECT_EQ(advice.advice.size(), 2u);
  }
  for (uint64_t seed = 0; seed < kWireCases; ++seed) {
    guest.boot().seed = seed;
    EXPECT_EQ(guest.Run(WireProgram(), 0).wire_requests.size(), seed == 0 ? 6u : 1u);
  }
  EXPECT_EQ(guest.Run(InvalidInstructionProgram(), 0).signal, SIGILL);
  const NativeOutcome beyond = guest.Run(ReadBeyondMemoryProgram(), 0);
  EXPECT_EQ(beyond.signal, SIGSEGV);
  EXPECT_EQ(beyond.fault_address, guest.boot().memory + guest.boot().memory_bytes);
}

}  // namespace
}  // namespace quire
