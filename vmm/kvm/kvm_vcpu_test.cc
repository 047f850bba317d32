// Guests under KVM itself. Skipped where there is none.
#include "vmm/kvm/kvm_vcpu.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <ostream>
#include <string>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "absl/types/span.h"
#include "base/mapping.h"
#include "base/unique_fd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/kvm/elf_loader.h"
#include "vmm/kvm/kvm_stats.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/test_guest.h"
#include "vmm/kvm/wired_memory.h"
#include "workloads/payload/testing/guest_programs.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

const KvmSystem& System() {
  static const KvmSystem* const system = new KvmSystem(*KvmSystem::Open());
  return *system;
}

Mapping Anonymous(ByteCount size) {
  return *Mapping::MapAligned(size, ByteCount::Bytes(kBlockSize), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                              -1, 0);
}

struct Shape {
  absl::Span<const std::byte> program = TestGuestProgram();
  ByteCount memory = ByteCount::MiB(4);
  int vcpus = 1;
  std::vector<AuxRegion> aux = {};
};

// A VM on plain anonymous memory, its vCPUs run by whoever calls.
class Machine {
 public:
  explicit Machine(TestGuestAction action, const Shape& shape = {})
      : image_(*ParseElf("test guest", shape.program, ByteCount::MiB(1))),
        layout_(*PlanWiredMemory({.image = image_,
                                  .memory = shape.memory,
                                  .vcpus = shape.vcpus,
                                  .aux = shape.aux,
                                  .physical_address_bits = System().physical_address_bits()})),
        memory_(Anonymous(shape.memory)),
        wired_mapping_(Anonymous(layout_.size)),
        wired_(layout_, {wired_mapping_.data(), layout_.size.in_bytes()}),
        vm_(*KvmVm::Create(System())) {
    wired_.Load(image_, action);
    EXPECT_TRUE(vm_->SetMemslot(Memslot::kMemory, Gpa(0), shape.memory, memory_.hva(), Protection::kReadWrite).ok());
    EXPECT_TRUE(
        vm_->SetMemslot(Memslot::kWired, layout_.gpa, layout_.size, wired_mapping_.hva(), Protection::kReadWrite).ok());
    for (int i = 0; i < shape.vcpus; ++i) vcpus_.push_back(*KvmVcpu::Create(*vm_, wired_, i));
  }

  const WiredLayout& layout() const { return layout_; }
  const Mapping& memory() const { return memory_; }
  const Mapping& wired_mapping() const { return wired_mapping_; }
  WiredMemory& wired() { return wired_; }
  KvmVm& vm() { return *vm_; }
  KvmVcpu& vcpu(int i = 0) { return *vcpus_[i]; }
  int vcpus() const { return static_cast<int>(vcpus_.size()); }

 private:
  const ElfImage image_;
  const WiredLayout layout_;
  const Mapping memory_, wired_mapping_;
  WiredMemory wired_;
  const std::unique_ptr<KvmVm> vm_;
  std::vector<std::unique_ptr<KvmVcpu>> vcpus_;
};

// Runs a vCPU, collecting what it prints, until something else happens than printing.
VcpuExit RunPastOutput(KvmVcpu& vcpu, std::string* output) {
  for (;;) {
    VcpuExit exit = vcpu.Run();
    const auto* serial = std::get_if<SerialOutput>(&exit);
    if (serial == nullptr) return exit;
    output->append(serial->bytes.data(), serial->bytes.size());
  }
}

std::string ToString(const VcpuExit& exit) {
  if (const auto* end = std::get_if<GuestExit>(&exit)) return "exit " + std::to_string(end->status);
  if (const auto* death = std::get_if<Death>(&exit)) return death->sentence + "\n" + death->registers;
  if (const auto* write = std::get_if<PortWrite>(&exit)) return "port " + std::to_string(write->port);
  if (std::holds_alternative<Interrupted>(exit)) return "interrupted";
  if (std::holds_alternative<MemoryFault>(exit)) return "memory fault";
  return "serial output";
}

// The same to the end of the program, in words.
std::string RunToEnd(KvmVcpu& vcpu, std::string* output) { return ToString(RunPastOutput(vcpu, output)); }
std::string RunToEnd(Machine& machine) {
  std::string output;
  return RunToEnd(machine.vcpu(), &output);
}

// A thread that ends before the test does.
class ScopedThread {
 public:
  template <class Body>
  explicit ScopedThread(Body body) : thread_(std::move(body)) {}
  ~ScopedThread() { Join(); }
  void Join() {
    if (thread_.joinable()) thread_.join();
  }

 private:
  std::thread thread_;
};

template <class Condition>
void WaitUntil(Condition condition) {
  while (!condition()) absl::SleepFor(absl::Milliseconds(1));
}

class KvmVcpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (access("/dev/kvm", R_OK | W_OK) != 0) GTEST_SKIP() << KvmSystem::Open().status().message();
  }
};

class SmpTest : public KvmVcpuTest, public ::testing::WithParamInterface<int> {
 protected:
  // Every vCPU on a thread of its own; how each ended and what each printed.
  void RunAll(Machine& machine) {
    ends_.resize(machine.vcpus());
    output_.resize(machine.vcpus());
    std::vector<std::unique_ptr<ScopedThread>> threads;
    for (int i = 0; i < machine.vcpus(); ++i) {
      threads.push_back(
          std::make_unique<ScopedThread>([this, &machine, i] { ends_[i] = RunToEnd(machine.vcpu(i), &output_[i]); }));
    }
  }
  std::vector<std::string> ends_, output_;
};

INSTANTIATE_TEST_SUITE_P(Vcpus, SmpTest, ::testing::Values(1, 2, 4));

TEST_P(SmpTest, EveryVcpuPrintsAndExits) {
  Machine machine(kSayHello, {.vcpus = GetParam()});
  RunAll(machine);
  for (int i = 0; i < GetParam(); ++i) {
    EXPECT_EQ(output_[i], "hello from vCPU " + std::to_string(i) + " of " + std::to_string(GetParam()) + "\n");
    EXPECT_EQ(ends_[i], "exit " + std::to_string(i));
  }
}

TEST_P(SmpTest, VcpusRunAtTheSameTime) {
  Machine machine(kWaitForEachOther, {.vcpus = GetParam()});
  RunAll(machine);
  EXPECT_THAT(ends_, ::testing::Each("exit 0"));
}

TEST_P(SmpTest, MemoryIsReadableAndWritableToItsLastPage) {
  const ByteCount memory = ByteCount::MiB(4) + kOnePage.bytes();
  Machine machine(kSweepMemory, {.memory = memory, .vcpus = GetParam()});
  RunAll(machine);
  EXPECT_THAT(ends_, ::testing::Each("exit 0"));
  uint64_t verified = 0;
  for (int i = 0; i < GetParam(); ++i) {
    EXPECT_EQ(machine.wired().ReadProgress(i).phase, 2u);
    verified += machine.wired().ReadProgress(i).verified_pages;
  }
  EXPECT_EQ(verified, PageCount::Ceil(memory).in_pages());
  for (uint64_t page = 0; page < PageCount::Ceil(memory).in_pages(); ++page) {
    uint64_t word;
    std::memcpy(&word, machine.memory().data() + page * kPageSize, sizeof(word));
    ASSERT_EQ(word, ~page);
  }
}

TEST_F(KvmVcpuTest, TheExampleOfTheGuestAbiRuns) {
  Machine machine(TestGuestAction(), {.program = HelloProgram()});
  std::string output;
  EXPECT_EQ(RunToEnd(machine.vcpu(), &output), "exit 0");
  EXPECT_EQ(output, "hello from a guest\n");
  EXPECT_EQ(machine.wired().ReadProgress(0).verified_pages, PageCount::Ceil(machine.memory().size()).in_pages());
}

TEST_F(KvmVcpuTest, ProgramsMayUseSse) {
  Machine machine(kAddFloats);
  EXPECT_EQ(RunToEnd(machine), "exit 4");
}

TEST_F(KvmVcpuTest, ReadingAPortGivesAllOnes) {
  Machine machine(kReadPort);
  EXPECT_EQ(RunToEnd(machine), "exit 4294967295");
}

TEST_F(KvmVcpuTest, UnknownPortsAreReportedAndTheGuestGoesOn) {
  Machine machine(kWritePort);
  const VcpuExit exit = machine.vcpu().Run();
  ASSERT_TRUE(std::holds_alternative<PortWrite>(exit)) << ToString(exit);
  EXPECT_EQ(std::get<PortWrite>(exit).port, 0x1234);
  EXPECT_EQ(std::get<PortWrite>(exit).value, 0x1234u);
  EXPECT_EQ(RunToEnd(machine), "exit 0");
}

TEST_F(KvmVcpuTest, StringsReachTheSerialPortWhole) {
  Machine machine(kWriteString);
  std::string output;
  EXPECT_EQ(RunToEnd(machine.vcpu(), &output), "exit 0");
  EXPECT_EQ(output, "string\n");
}

TEST_F(KvmVcpuTest, StopReachesARunningGuest) {
  Machine machine(kWaitForStop);
  std::string end;
  ScopedThread thread([&] { end = RunToEnd(machine); });
  WaitUntil([&] { return machine.wired().ReadProgress(0).operations > 0; });
  machine.wired().RequestStop();
  thread.Join();
  EXPECT_EQ(end, "exit 5");
}

struct DeathCase {
  TestGuestAction action;
  const char* sentence;
  std::vector<AuxRegion> aux = {};
};

void PrintTo(const DeathCase& death, std::ostream* os) { *os << "action " << death.action << ": " << death.sentence; }

class DeathTest : public KvmVcpuTest, public ::testing::WithParamInterface<DeathCase> {};

INSTANTIATE_TEST_SUITE_P(
    Actions, DeathTest,
    ::testing::Values(DeathCase{kInvalidInstruction, "invalid instruction (#UD) at rip 0x40"},
                      DeathCase{kDivideByZero, "divide error (#DE) at rip 0x40"},
                      DeathCase{kHalt, "general protection fault (#GP) at rip 0x40"},
                      // #GP for a gate that the program may not use; kvm-pvm, which emulates INT, says #UD.
                      DeathCase{kSoftwareInterrupt, ") at rip 0x40"},
                      DeathCase{kReadNull, "read of 0x0, which is not mapped"},
                      DeathCase{kReadBeyondMemory, "read of 0x1000400000, which is not mapped"},
                      DeathCase{kWriteCode, "write to 0x40"}, DeathCase{kRunData, ", which is not executable"},
                      DeathCase{kOverflowStack, "write to 0x2000fff8, which is not mapped: its stack is full"},
                      DeathCase{kReturn, "execution of 0x0, which is not mapped"},
                      // There is a mapping in the guest's tables, but no memslot behind it.
                      DeathCase{kReadAux, "read of 4 bytes at guest physical address 0x40000000", {{kOnePage.bytes()}}},
                      DeathCase{kRunAux, "not executable", {{kOnePage.bytes()}}},
                      DeathCase{kWriteAux, "write to 0x100000000000, which is not writable", {{kOnePage.bytes()}}},
                      DeathCase{
                          kWriteAux,
                          "write of 4 bytes at guest physical address 0x40000000, where there is no writable memory",
                          {{kOnePage.bytes(), Protection::kReadWrite}}}));

TEST_P(DeathTest, HasItsSentenceAndRegistersWhileAnotherGuestGoesOn) {
  Machine other(kWaitForStop);
  std::string other_end;
  ScopedThread thread([&] { other_end = RunToEnd(other); });

  Machine machine(GetParam().action, {.aux = GetParam().aux});
  std::string output;
  const VcpuExit exit = RunPastOutput(machine.vcpu(), &output);
  const auto operations = [&] { return other.wired().ReadProgress(0).operations; };
  WaitUntil([&, before = operations()] { return operations() > before; });
  other.wired().RequestStop();
  thread.Join();
  EXPECT_EQ(other_end, "exit 5");

  ASSERT_TRUE(std::holds_alternative<Death>(exit)) << ToString(exit);
  const Death& death = std::get<Death>(exit);
  EXPECT_THAT(death.sentence, ::testing::StartsWith("vCPU 0: "));
  EXPECT_THAT(death.sentence, HasSubstr(GetParam().sentence));
  EXPECT_THAT(death.registers, HasSubstr("rdi=0000000000100000"));
  EXPECT_THAT(death.registers, HasSubstr("cs=0033"));
  if (GetParam().action == kInvalidInstruction) {
    EXPECT_THAT(death.registers, HasSubstr("rip=000000000040"));
    EXPECT_THAT(death.registers, HasSubstr("rsp=000000002001ff"));
    EXPECT_THAT(death.registers, HasSubstr("rax=0000000001234567"));
  }
}

TEST_F(KvmVcpuTest, CodeThatCannotBeFetchedIsAnInternalError) {
  Machine machine(kSayHello);
  // All of wired memory but the page with the code, so that KVM would have to emulate an instruction it cannot read.
  const uint64_t before = machine.layout().program.in_bytes() + kPageSize;  // the program's second page is its code
  const uint64_t after = before + kPageSize;
  KvmVm& vm = machine.vm();
  ASSERT_TRUE(vm.RemoveMemslot(Memslot::kWired).ok());
  const auto add = [&](Memslot slot, uint64_t begin, uint64_t end) {
    return vm.SetMemslot(slot, machine.layout().gpa + ByteCount::Bytes(begin), ByteCount::Bytes(end - begin),
                         machine.wired_mapping().hva() + ByteCount::Bytes(begin), Protection::kReadWrite);
  };
  ASSERT_TRUE(add(AuxMemslot(0), 0, before).ok());
  ASSERT_TRUE(add(AuxMemslot(1), after, machine.layout().size.in_bytes()).ok());
  const std::string end = RunToEnd(machine);
  EXPECT_THAT(end, HasSubstr("vCPU 0: KVM could not emulate an instruction"));
  EXPECT_THAT(end, HasSubstr("rip=000000000040"));
}

TEST_F(KvmVcpuTest, AProgramWithoutFaultHandlersDiesOfATripleFault) {
  Machine machine(kInvalidInstruction);
  std::memset(machine.wired_mapping().data() + machine.layout().descriptors.in_bytes(), 0, kPageSize);
  const std::string end = RunToEnd(machine);
  EXPECT_THAT(end, HasSubstr("vCPU 0: triple fault"));
  EXPECT_THAT(end, HasSubstr("rip="));
}

TEST_F(KvmVcpuTest, ReadOnlyMemslotsCanBeReadButNotWritten) {
  const Mapping data = Anonymous(kOnePage.bytes());
  std::memcpy(data.data(), "\x2a\0\0\0", 4);
  for (TestGuestAction action : {kReadAux, kWriteAux}) {
    // The guest's own tables would let it write.
    Machine machine(action, {.aux = {{kOnePage.bytes(), Protection::kReadWrite}}});
    const Gpa gpa = machine.layout().aux[0].gpa;
    ASSERT_TRUE(machine.vm().SetMemslot(AuxMemslot(0), gpa, kOnePage.bytes(), data.hva(), Protection::kReadOnly).ok());
    EXPECT_THAT(RunToEnd(machine), HasSubstr(action == kReadAux ? "exit 42" : "where there is no writable memory"));
    EXPECT_EQ(data.data()[0], std::byte{42});
  }
}

TEST_F(KvmVcpuTest, MemoryTakenAwayIsADeath) {
  Machine machine(kSweepMemory);
  ASSERT_TRUE(machine.vm().RemoveMemslot(Memslot::kMemory).ok());
  EXPECT_THAT(RunToEnd(machine), HasSubstr("at guest physical address 0x0, where there is no"));
}

TEST_F(KvmVcpuTest, DyingByTheCallersWillShowsRegisters) {
  Machine machine(kWritePort);
  (void)machine.vcpu().Run();
  const Death death = machine.vcpu().Die("page 7 cannot be read back");
  EXPECT_EQ(death.sentence, "vCPU 0: page 7 cannot be read back");
  EXPECT_THAT(death.registers, HasSubstr("rax=0000000000001234"));
}

TEST_F(KvmVcpuTest, AMomentarilyImpossibleTranslationIsAMemoryFault) {
  Machine machine(kSweepMemory);
  ASSERT_EQ(mprotect(machine.memory().data(), kBlockSize, PROT_NONE), 0);
  EXPECT_EQ(RunToEnd(machine), "memory fault");
  EXPECT_EQ(RunToEnd(machine), "memory fault");
  ASSERT_EQ(mprotect(machine.memory().data(), kBlockSize, PROT_READ | PROT_WRITE), 0);
  EXPECT_EQ(RunToEnd(machine), "exit 0");
}

TEST_F(KvmVcpuTest, KickEndsAnInfiniteLoop) {
  Machine machine(kSpin);
  std::string end;
  ScopedThread thread([&] { end = RunToEnd(machine); });
  WaitUntil([&] { return machine.wired().ReadProgress(0).phase == 1; });
  machine.vcpu().Kick();
  thread.Join();
  EXPECT_EQ(end, "interrupted");
}

TEST_F(KvmVcpuTest, KickBeforeARunEndsThatRunOnly) {
  Machine machine(kSayHello);
  machine.vcpu().Kick();
  machine.vcpu().Kick();
  EXPECT_EQ(RunToEnd(machine), "interrupted");
  EXPECT_EQ(RunToEnd(machine), "exit 0");
}

// A lost kick would hang this test. The one guest is always inside KVM_RUN, the other nearly always on its way in or
// out.
class KickTest : public KvmVcpuTest, public ::testing::WithParamInterface<TestGuestAction> {};
INSTANTIATE_TEST_SUITE_P(Actions, KickTest, ::testing::Values(kSpin, kPrintForEver));

TEST_P(KickTest, IsNeverLost) {
  constexpr int kRounds = 300;
  Machine machine(GetParam());
  std::atomic<int> wanted{0}, seen{0};
  ScopedThread thread([&] {
    std::string output;
    while (seen < kRounds) {
      EXPECT_EQ(RunToEnd(machine.vcpu(), &output), "interrupted");
      seen = wanted.load();
    }
  });
  for (int round = 1; round <= kRounds; ++round) {
    wanted = round;
    machine.vcpu().Kick();
    WaitUntil([&] { return seen >= round; });
  }
}

// The guest's memory under a userfaultfd that nobody serves.
class UnservedMemory {
 public:
  explicit UnservedMemory(const Mapping& memory)
      : fd_(static_cast<int>(syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK))) {
    uffdio_api api = {};
    api.api = UFFD_API;
    uffdio_register range = {};
    range.range = {memory.hva().value(), memory.size().in_bytes()};
    range.mode = UFFDIO_REGISTER_MODE_MISSING;
    valid_ = fd_.valid() && ioctl(fd_.get(), UFFDIO_API, &api) == 0 && ioctl(fd_.get(), UFFDIO_REGISTER, &range) == 0;
  }
  bool valid() const { return valid_; }
  void AwaitFault() {
    pollfd poll_fd = {fd_.get(), POLLIN, 0};
    EXPECT_EQ(poll(&poll_fd, 1, -1), 1);
  }
  // Lets faults go on without an answer.
  void Close() { fd_.reset(); }

 private:
  UniqueFd fd_;
  bool valid_;
};

// Before Linux 6.2 a signal does not reach a vCPU in a fault.
bool FaultsAreInterruptible() {
  utsname name;
  int major = 0, minor = 0;
  EXPECT_EQ(uname(&name), 0);
  EXPECT_EQ(sscanf(name.release, "%d.%d", &major, &minor), 2) << name.release;
  return major > 6 || (major == 6 && minor >= 2);
}

TEST_F(KvmVcpuTest, KickReachesAVcpuInAFaultAndStatisticsStayReadable) {
  Machine machine(kSweepMemory);
  UnservedMemory unserved(machine.memory());
  if (!unserved.valid()) GTEST_SKIP() << "no userfaultfd for kernel faults: run as root";
  std::string end;
  ScopedThread thread([&] { end = RunToEnd(machine); });
  unserved.AwaitFault();
  if (machine.vcpu().stats() != nullptr) {
    EXPECT_TRUE(machine.vcpu().stats()->Read("exits").ok());
    EXPECT_TRUE(machine.vm().stats()->Read("pages_4k").ok());
  }
  machine.vcpu().Kick();
  if (!FaultsAreInterruptible()) unserved.Close();
  thread.Join();
  EXPECT_EQ(end, "interrupted");
}

TEST_F(KvmVcpuTest, StatisticsCountMappedPages) {
  Machine machine(kSweepMemory);
  const KvmStats* const stats = machine.vm().stats();
  if (stats == nullptr) GTEST_SKIP() << "this kernel's KVM has no binary statistics";
  const uint64_t exits_before = *machine.vcpu().stats()->Read("exits");
  const auto mapped = [&] { return *stats->Read("pages_4k") + *stats->Read("pages_2m") * kPagesPerBlock; };
  ASSERT_EQ(madvise(machine.memory().data(), machine.memory().size().in_bytes(), MADV_NOHUGEPAGE), 0);
  EXPECT_EQ(RunToEnd(machine), "exit 0");
  EXPECT_GT(*machine.vcpu().stats()->Read("exits"), exits_before);
  EXPECT_GE(mapped(), PageCount::Ceil(machine.memory().size()).in_pages());
  ASSERT_EQ(madvise(machine.memory().data(), machine.memory().size().in_bytes(), MADV_DONTNEED), 0);
  EXPECT_LT(mapped(), kPagesPerBlock / 2);  // only wired pages are left
}

TEST_F(KvmVcpuTest, BadMemslotsAreRefusedWithAReason) {
  Machine machine(kSayHello);
  const absl::Status status =
      machine.vm().SetMemslot(AuxMemslot(0), Gpa(1), kOnePage.bytes(), machine.memory().hva(), Protection::kReadOnly);
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("setting memslot 2 (guest physical 0x1, 4096 bytes"));
  EXPECT_FALSE(machine.vm()
                   .SetMemslot(AuxMemslot(0), Gpa(0), kOnePage.bytes(), machine.memory().hva(), Protection::kReadOnly)
                   .ok());  // overlaps the guest's memory
}

TEST_F(KvmVcpuTest, TheHostOffersWhatGuestsNeed) {
  EXPECT_GE(System().physical_address_bits(), 36);
  EXPECT_GE(System().max_vcpus(), 4);
  EXPECT_GE(System().vcpu_run_size(), ByteCount::Bytes(sizeof(kvm_run)));
  EXPECT_NE(System().supported_cpuid().Find(0), nullptr);
}

}  // namespace
}  // namespace quire
