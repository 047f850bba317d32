// Machine checks of a guest under KVM itself, whose kernel is a few instructions. Skipped where there is none.
#include "vmm/kvm/pc_vcpu.h"

#include <sys/mman.h>

#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mapping.h"
#include "base/units.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/kvm/kvm_system.h"
#include "vmm/kvm/kvm_vm.h"
#include "vmm/kvm/machine_check.h"
#include "vmm/kvm/pc_cpuid.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kCode = 0x1000, kHandler = 0x1080, kIdt = 0x2000, kIdtPointer = 0x3000, kGdt = 0x4000;
constexpr uint64_t kStack = 0x6000;
constexpr Gpa kLost = Gpa(0x7000);
constexpr uint16_t kCodeSelector = 8, kDataSelector = 16;

// What the kernel does first, by rbx.
constexpr uint64_t kEnableLocal = 1, kEnable = 2;
// Where it says what.
enum Port : uint64_t { kStarted = 0x10, kGoesOn, kMcgStatus, kStatusLow, kStatusHigh, kAddress };

// clang-format off
constexpr uint8_t kKernel[] = {
    0xf6, 0xc3, 0x01,               // test $1, %bl
    0x74, 0x0e,                     // jz 1f
    0xb9, 0xd0, 0x04, 0x00, 0x00,   // mov $0x4d0, %ecx
    0xb8, 0x01, 0x00, 0x00, 0x00,   // mov $1, %eax
    0x31, 0xd2,                     // xor %edx, %edx
    0x0f, 0x30,                     // wrmsr
    0xf6, 0xc3, 0x02,               // 1: test $2, %bl
    0x74, 0x09,                     // jz 2f
    0x0f, 0x20, 0xe0,               // mov %cr4, %eax
    0x83, 0xc8, 0x40,               // or $0x40, %eax
    0x0f, 0x22, 0xe0,               // mov %eax, %cr4
    0x0f, 0x01, 0x1d,               // 2: lidt kIdtPointer
    0x00, 0x30, 0x00, 0x00,         //
    0xe7, kStarted,                 // out %eax, $kStarted
    0xe7, kGoesOn,                  // 3: out %eax, $kGoesOn
    0xeb, 0xfc,                     // jmp 3b
};
constexpr uint8_t kMachineCheckHandler[] = {
    0xb9, 0x7a, 0x01, 0x00, 0x00,   // mov $0x17a, %ecx
    0x0f, 0x32,                     // rdmsr
    0xe7, kMcgStatus,               // out %eax, $kMcgStatus
    0xb9, 0x25, 0x04, 0x00, 0x00,   // mov $0x425, %ecx
    0x0f, 0x32,                     // rdmsr
    0xe7, kStatusLow,               // out %eax, $kStatusLow
    0x89, 0xd0,                     // mov %edx, %eax
    0xe7, kStatusHigh,              // out %eax, $kStatusHigh
    0xb9, 0x26, 0x04, 0x00, 0x00,   // mov $0x426, %ecx
    0x0f, 0x32,                     // rdmsr
    0xe7, kAddress,                 // out %eax, $kAddress
    0xb9, 0x7a, 0x01, 0x00, 0x00,   // mov $0x17a, %ecx
    0x31, 0xc0,                     // xor %eax, %eax
    0x31, 0xd2,                     // xor %edx, %edx
    0x0f, 0x30,                     // wrmsr
    0xb9, 0x25, 0x04, 0x00, 0x00,   // mov $0x425, %ecx
    0x0f, 0x30,                     // wrmsr
    0xc2, 0x08, 0x00,               // ret $8: as iret, which KVM does not emulate (where it has to emulate a kernel)
};
// clang-format on

const KvmSystem& System() {
  static const KvmSystem* const system = new KvmSystem(*KvmSystem::Open());
  return *system;
}

class PcVcpuTest : public ::testing::Test {
 protected:
  void SetUp() override {
    if (const absl::StatusOr<KvmSystem> kvm = KvmSystem::Open(); !kvm.ok()) GTEST_SKIP() << kvm.status().message();
    ASSERT_TRUE(HasMachineChecks(System()));
    vm_ = *KvmVm::Create(System());
    ASSERT_EQ(vm_->AddPcChips(), absl::OkStatus());
    ASSERT_EQ(vm_->SetMemslot(Memslot::kMemory, Gpa(0), memory_.size(), memory_.hva(), Protection::kReadWrite),
              absl::OkStatus());
    LoadKernel();
    vcpu_ = *PcVcpu::Create(*vm_, 0, 1);
  }

  // Until it says that it has started.
  void Boot(uint64_t options) {
    ASSERT_EQ(vcpu_->Boot({.mode = PcVcpu::Start::Mode::kProtected,
                           .rip = kCode,
                           .rsp = kStack,
                           .rax = 0,
                           .rbx = options,
                           .rsi = 0,
                           .page_tables = {},
                           .gdt = Gpa(kGdt),
                           .gdt_limit = 23,
                           .code = kCodeSelector,
                           .data = kDataSelector,
                           .task = 0}),
              absl::OkStatus());
    ASSERT_EQ(Next().port, kStarted);
  }

  struct Said {
    uint64_t port = 0;  // 0: it did something else
    uint32_t value = 0;
  };
  Said Next() {
    for (;;) {
      const PcExit exit = vcpu_->Run();
      if (std::holds_alternative<Interrupted>(exit)) continue;
      const auto* const access = std::get_if<DeviceAccess>(&exit);
      if (access == nullptr) return {};
      Said said{.port = access->address};
      std::memcpy(&said.value, access->data.data(), access->data.size());
      return said;
    }
  }
  void ExpectHandled(const kvm_x86_mce& check) {
    const Said mcg_status = Next(), low = Next(), high = Next(), address = Next();
    EXPECT_EQ(mcg_status.port, kMcgStatus);
    EXPECT_EQ(mcg_status.value, check.mcg_status);
    EXPECT_EQ(uint64_t{high.value} << 32 | low.value, check.status);
    EXPECT_EQ(address.port, kAddress);
    EXPECT_EQ(address.value, check.addr);
    EXPECT_EQ(Next().port, kGoesOn);
  }
  static bool Amd() { return IsAmd(System().supported_cpuid()); }
  static MachineCheckScope Scope() { return Amd() ? MachineCheckScope::kAmd : MachineCheckScope::kIntelAll; }

  std::unique_ptr<PcVcpu> vcpu_;

 private:
  void LoadKernel() {
    const uint64_t descriptors[] = {0, 0x00cf'9b00'0000'ffff, 0x00cf'9300'0000'ffff};  // flat code and data
    const uint64_t gate = kHandler | uint64_t{kCodeSelector} << 16 | uint64_t{0x8e00} << 32;
    const uint16_t idt_pointer[] = {0xff, kIdt, 0};
    std::memcpy(memory_.data() + kCode, kKernel, sizeof kKernel);
    std::memcpy(memory_.data() + kHandler, kMachineCheckHandler, sizeof kMachineCheckHandler);
    std::memcpy(memory_.data() + kIdt + 18 * 8, &gate, sizeof gate);
    std::memcpy(memory_.data() + kIdtPointer, idt_pointer, sizeof idt_pointer);
    std::memcpy(memory_.data() + kGdt, descriptors, sizeof descriptors);
  }

  const Mapping memory_ = *Mapping::MapAligned(ByteCount::MiB(2), ByteCount::Bytes(kBlockSize), PROT_READ | PROT_WRITE,
                                               MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  std::unique_ptr<KvmVm> vm_;
};

TEST_F(PcVcpuTest, TheKernelIsToldWhichPageIsLostAndGoesOn) {
  Boot(kEnable);
  for (int i = 0; i < 3; ++i) {
    const absl::StatusOr<bool> others = vcpu_->RaiseMachineCheck(kLost);
    ASSERT_EQ(others.status(), absl::OkStatus());
    EXPECT_EQ(*others, !Amd());
    ExpectHandled(LostPageCheck(kLost, Scope()));
  }
}

TEST_F(PcVcpuTest, AKernelOfAnIntelProcessorCanHaveItOnOneProcessorOnly) {
  if (!HasLocalMachineChecks(System())) GTEST_SKIP() << "this KVM has none (on Intel's processors it does)";
  Boot(kEnable | kEnableLocal);
  const absl::StatusOr<bool> others = vcpu_->RaiseMachineCheck(kLost);
  ASSERT_EQ(others.status(), absl::OkStatus());
  EXPECT_FALSE(*others);
  ExpectHandled(LostPageCheck(kLost, MachineCheckScope::kIntelLocal));
}

TEST_F(PcVcpuTest, AKernelThatHasNotEnabledThemIsNotTripped) {
  Boot(0);
  EXPECT_THAT(std::string(vcpu_->RaiseMachineCheck(kLost).status().message()), HasSubstr("CR4.MCE"));
  EXPECT_EQ(vcpu_->JoinMachineCheck(), absl::OkStatus());
  EXPECT_EQ(Next().port, kGoesOn);
}

TEST_F(PcVcpuTest, AKernelThatDoesNothingAboutAPageIsNotToldOfItForEver) {
  Boot(kEnable);
  for (int i = 0; i < kMostChecksOfAPage; ++i) {
    ASSERT_EQ(vcpu_->RaiseMachineCheck(kLost).status(), absl::OkStatus());
    ExpectHandled(LostPageCheck(kLost, Scope()));
  }
  const absl::Status once_more = vcpu_->RaiseMachineCheck(kLost).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(once_more));
  EXPECT_THAT(std::string(once_more.message()), HasSubstr("told so 16 times, and touches it still"));
  const Gpa another = kLost + ByteCount::Bytes(kPageSize);
  ASSERT_EQ(vcpu_->RaiseMachineCheck(another).status(), absl::OkStatus());
  ExpectHandled(LostPageCheck(another, Scope()));
}

TEST_F(PcVcpuTest, OneThatHasNotBegunIsNotFollowedByAnother) {
  Boot(kEnable);
  ASSERT_TRUE(vcpu_->RaiseMachineCheck(kLost).ok());
  const absl::StatusOr<bool> again = vcpu_->RaiseMachineCheck(kLost + ByteCount::Bytes(kPageSize));
  ASSERT_EQ(again.status(), absl::OkStatus());
  EXPECT_FALSE(*again);
  EXPECT_EQ(vcpu_->JoinMachineCheck(), absl::OkStatus());
  ExpectHandled(LostPageCheck(kLost, Scope()));
}

TEST_F(PcVcpuTest, AHandlerThatTouchesALostPageCannotBeTold) {
  Boot(kEnable);
  ASSERT_TRUE(vcpu_->RaiseMachineCheck(kLost).ok());
  ASSERT_EQ(Next().port, kMcgStatus);
  EXPECT_THAT(std::string(vcpu_->RaiseMachineCheck(kLost).status().message()), HasSubstr("handling a machine check"));
  EXPECT_EQ(vcpu_->JoinMachineCheck(), absl::OkStatus());
  EXPECT_EQ(Next().port, kStatusLow) << "it goes on as if nothing had been";
}

TEST_F(PcVcpuTest, OthersOfThePackageHaveNothingInTheBank) {
  Boot(kEnable);
  ASSERT_EQ(vcpu_->JoinMachineCheck(), absl::OkStatus());
  kvm_x86_mce nothing = {};
  nothing.mcg_status = CheckElsewhere().mcg_status;
  ExpectHandled(nothing);
}

}  // namespace
}  // namespace quire
