#include "vmm/kvm/wired_memory.h"

#include <sys/mman.h>

#include <cstring>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/mapping.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/kvm/test_elf.h"
#include "vmm/kvm/test_page_walk.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kText = QUIRE_IMAGE_BEGIN;
constexpr uint64_t kData = QUIRE_IMAGE_BEGIN + 0x10080;  // not at the beginning of a page

// Code of two pages and a bit; data that begins within a page and ends in zeros.
TestElf Program() {
  TestElf elf;
  elf.AddSegment(kText, 2 * kPageSize + 5, PF_X, std::string(2 * kPageSize, '\x90') + "code!");
  elf.AddSegment(kData, 3 * kPageSize, PF_W, std::string(kPageSize, 'd'));
  elf.header.e_entry = kText + 3;
  return elf;
}

struct Shape {
  ByteCount memory = ByteCount::MiB(8);
  int vcpus = 2;
  std::vector<AuxRegion> aux = {};
  int physical_address_bits = 40;
};

// Wired memory of its own, as the guest and as the host see it.
class Wired {
 public:
  explicit Wired(const TestElf& elf = Program(), const Shape& shape = {}) : file_(elf.bytes()) {
    image_ = *ParseElf("test", AsBytes(file_), ByteCount::MiB(64));
    const WiredLayout layout = *PlanWiredMemory({.image = image_,
                                                 .memory = shape.memory,
                                                 .vcpus = shape.vcpus,
                                                 .aux = shape.aux,
                                                 .physical_address_bits = shape.physical_address_bits});
    memory_ = *Mapping::Map(layout.size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(memory_.data(), 0xcc, layout.size.in_bytes());  // what the last owner left
    wired_ = std::make_unique<WiredMemory>(layout, span());
    wired_->Load(image_, 42);
  }

  WiredMemory& operator*() { return *wired_; }
  WiredMemory* operator->() { return wired_.get(); }
  const WiredLayout& layout() const { return wired_->layout(); }
  absl::Span<std::byte> span() { return {memory_.data(), memory_.size().in_bytes()}; }
  std::optional<WalkResult> Walk(Gva address) {
    const ByteCount tables = layout().page_tables;
    return WalkPageTables(span().subspan(tables.in_bytes()), layout().gpa + tables, address);
  }
  // The guest's bytes in wired memory, or an empty string where nothing is mapped.
  std::string Read(Gva address, size_t size) {
    std::string bytes;
    for (; size > 0; --size, address = address + ByteCount::Bytes(1)) {
      const std::optional<WalkResult> walk = Walk(address);
      if (!walk) return "";
      bytes += static_cast<char>(span()[walk->gpa.value() - layout().gpa.value()]);
    }
    return bytes;
  }

 private:
  std::string file_;
  ElfImage image_;
  Mapping memory_;
  std::unique_ptr<WiredMemory> wired_;
};

// r, w, x for the program; "s" where only the processor itself gets.
std::string Rights(const std::optional<WalkResult>& walk) {
  if (!walk) return "";
  if (!walk->user) return "s";
  return std::string("r") + (walk->writable ? "w" : "") + (walk->executable ? "x" : "");
}

absl::Status PlanError(const Shape& shape) {
  const ElfImage image;
  return PlanWiredMemory({.image = image,
                          .memory = shape.memory,
                          .vcpus = shape.vcpus,
                          .aux = shape.aux,
                          .physical_address_bits = shape.physical_address_bits})
      .status();
}

TEST(WiredLayout, LiesBesideMemoryAndAux) {
  const Wired wired(Program(), {.memory = ByteCount::MiB(1025),
                                .aux = {{ByteCount::MiB(3), Protection::kReadWrite}, {kOnePage.bytes()}}});
  const WiredLayout& layout = wired.layout();
  EXPECT_EQ(layout.aux[0].gpa, Gpa(2ull << 30));
  EXPECT_EQ(layout.aux[0].address, Gva(QUIRE_AUX));
  EXPECT_EQ(layout.aux[1].gpa, Gpa(3ull << 30));
  EXPECT_EQ(layout.aux[1].address, Gva(QUIRE_AUX + ByteCount::MiB(4).in_bytes()));
  EXPECT_EQ(layout.gpa, Gpa(4ull << 30));
  EXPECT_TRUE(layout.size.page_aligned());
}

TEST(WiredLayout, RefusesImpossibleShapes) {
  EXPECT_THAT(std::string(PlanError({.vcpus = 0}).message()), HasSubstr("0 vCPUs: give it 1 to 64"));
  EXPECT_THAT(std::string(PlanError({.vcpus = 65}).message()), HasSubstr("65 vCPUs"));
  EXPECT_THAT(std::string(PlanError({.memory = ByteCount()}).message()), HasSubstr("memory of 0 bytes"));
  EXPECT_THAT(std::string(PlanError({.memory = ByteCount::Bytes(5000)}).message()), HasSubstr("multiple of 4096"));
  EXPECT_THAT(std::string(PlanError({.memory = ByteCount::Bytes(~uint64_t{0} << kPageShift)}).message()),
              HasSubstr("address space"));
}

TEST(WiredLayout, RefusesMoreThanTheGuestsPhysicalAddresses) {
  const auto with = [](uint64_t gib, int bits) {
    return PlanError({.memory = ByteCount::GiB(gib), .physical_address_bits = bits});
  };
  EXPECT_TRUE(with(63, 36).ok());
  EXPECT_EQ(with(64, 36).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(with(64, 36).message()), HasSubstr("only 36 address bits"));
  EXPECT_TRUE(with(64, 37).ok());
}

TEST(WiredMemory, BootInfoSaysWhatTheMachineIs) {
  Wired wired(Program(), {.aux = {{ByteCount::MiB(3), Protection::kReadWrite}, {kOnePage.bytes()}}});
  const std::string bytes = wired.Read(Gva(QUIRE_BOOT_INFO), sizeof(quire_boot_info));
  ASSERT_EQ(bytes.size(), sizeof(quire_boot_info));
  quire_boot_info info;
  std::memcpy(&info, bytes.data(), sizeof(info));
  EXPECT_EQ(info.magic, QUIRE_ABI_MAGIC);
  EXPECT_EQ(info.version, QUIRE_ABI_VERSION);
  EXPECT_EQ(info.vcpus, 2u);
  EXPECT_EQ(info.memory, QUIRE_MEMORY);
  EXPECT_EQ(info.memory_bytes, ByteCount::MiB(8).in_bytes());
  EXPECT_EQ(info.seed, 42u);
  EXPECT_EQ(info.stop, 0u);
  EXPECT_EQ(info.arrived, 0u);
  EXPECT_EQ(info.aux, QUIRE_AUX);
  EXPECT_EQ(info.aux_bytes, ByteCount::MiB(4).in_bytes() + kPageSize);
  EXPECT_EQ(info.progress[63].phase, 0u);
}

TEST(WiredMemory, NoAuxIsNull) {
  Wired wired;
  quire_boot_info info;
  std::memcpy(&info, wired.span().data(), sizeof(info));
  EXPECT_EQ(info.aux, 0u);
  EXPECT_EQ(info.aux_bytes, 0u);
}

TEST(WiredMemory, ProgramLiesWhereItsFileSays) {
  Wired wired;
  EXPECT_EQ(wired.Read(Gva(kText + 2 * kPageSize - 1), 6),
            "\x90"
            "code!");
  EXPECT_EQ(wired.Read(Gva(kData), kPageSize), std::string(kPageSize, 'd'));
  EXPECT_EQ(wired.Read(Gva(kData + kPageSize), 2 * kPageSize), std::string(2 * kPageSize, '\0'));
  EXPECT_EQ(Rights(wired.Walk(Gva(kText))), "rx");
  EXPECT_EQ(Rights(wired.Walk(Gva(kText + 2 * kPageSize))), "rx");
  EXPECT_EQ(Rights(wired.Walk(Gva(kText + 3 * kPageSize))), "");
  EXPECT_EQ(Rights(wired.Walk(Gva(kData))), "rw");
}

TEST(WiredMemory, SharedPagesHaveTheRightsOfBothSegments) {
  TestElf elf;
  elf.AddSegment(kText, kPageSize + 10, PF_X, std::string(kPageSize + 10, 'x'));
  elf.AddSegment(kText + kPageSize + 10, 20, PF_W, std::string(20, 'w'));
  elf.AddSegment(kText + kPageSize + 30, 2 * kPageSize, 0, "ro");
  elf.header.e_entry = kText;
  Wired wired(elf);
  EXPECT_EQ(wired.Read(Gva(kText + kPageSize + 9), 23), "x" + std::string(20, 'w') + "ro");
  EXPECT_EQ(Rights(wired.Walk(Gva(kText))), "rx");
  EXPECT_EQ(Rights(wired.Walk(Gva(kText + kPageSize))), "rwx");
  EXPECT_EQ(Rights(wired.Walk(Gva(kText + 2 * kPageSize))), "r");
}

TEST(WiredMemory, MemoryAndAuxAreMappedInLargePages) {
  Wired wired(Program(), {.memory = ByteCount::Bytes(4 * kBlockSize + kPageSize),
                          .aux = {{ByteCount::MiB(4), Protection::kReadWrite}, {ByteCount::MiB(2)}}});
  const Gva memory(QUIRE_MEMORY);
  EXPECT_EQ(wired.Walk(memory)->gpa, Gpa(0));
  EXPECT_TRUE(wired.Walk(memory)->large);
  EXPECT_EQ(Rights(wired.Walk(memory)), "rw");
  EXPECT_EQ(wired.Walk(memory + ByteCount::Bytes(4 * kBlockSize + 9))->gpa, Gpa(4 * kBlockSize + 9));
  EXPECT_FALSE(wired.Walk(memory + ByteCount::Bytes(4 * kBlockSize))->large);
  EXPECT_FALSE(wired.Walk(memory + ByteCount::Bytes(4 * kBlockSize + kPageSize)));
  EXPECT_EQ(wired.Walk(wired.layout().aux[1].address)->gpa, wired.layout().aux[1].gpa);
  EXPECT_TRUE(wired.Walk(wired.layout().aux[1].address)->large);
  EXPECT_EQ(Rights(wired.Walk(wired.layout().aux[0].address)), "rw");
  EXPECT_EQ(Rights(wired.Walk(wired.layout().aux[1].address)), "r");
}

TEST(WiredMemory, TheProgramReachesNeitherPageTablesNorDescriptors) {
  Wired wired;
  EXPECT_EQ(Rights(wired.Walk(kDescriptorsAddress)), "s");
  const uint64_t begin = wired.layout().page_tables.in_bytes(), end = wired.layout().size.in_bytes();
  for (const GuestMapping& mapping : wired.layout().mappings) {
    if (mapping.gpa < wired.layout().gpa) continue;
    const uint64_t offset = mapping.gpa.value() - wired.layout().gpa.value();
    EXPECT_TRUE(offset + mapping.size.in_bytes() <= begin || offset >= end);
  }
}

TEST(WiredMemory, EachVcpuHasAStackWithAGapBelow) {
  Wired wired(Program(), {.vcpus = QUIRE_MAX_VCPUS});
  Gpa last;
  for (int vcpu = 0; vcpu < static_cast<int>(QUIRE_MAX_VCPUS); ++vcpu) {
    const VcpuStart start = wired->StartOf(vcpu);
    EXPECT_EQ(start.entry, Gva(kText + 3));
    EXPECT_EQ(start.vcpu, vcpu);
    EXPECT_EQ(start.boot_info, Gva(QUIRE_BOOT_INFO));
    EXPECT_EQ(start.stack_pointer.value() % 16, 8u);
    const uint64_t end = start.stack_pointer.value() + 8;
    EXPECT_EQ(Rights(wired.Walk(start.stack_pointer)), "rw");
    EXPECT_EQ(Rights(wired.Walk(Gva(end - QUIRE_STACK_SIZE))), "rw");
    EXPECT_FALSE(wired.Walk(Gva(end - QUIRE_STACK_SIZE - 1)));
    EXPECT_FALSE(wired.Walk(Gva(end)));
    const Gpa gpa = wired.Walk(start.stack_pointer)->gpa;
    EXPECT_NE(gpa, last);
    last = gpa;
  }
}

// What the processor does with vector 14 on vCPU 1, step by step.
TEST(WiredMemory, ExceptionsLeadToFaultCodeOnTheVcpusOwnFrame) {
  Wired wired;
  const VcpuStart start = wired->StartOf(1);
  const std::string gate = wired.Read(start.idt + ByteCount::Bytes(14 * 16), 16);
  ASSERT_EQ(gate.size(), 16u);
  const auto byte = [&gate](int i) { return static_cast<uint64_t>(static_cast<unsigned char>(gate[i])); };
  const uint64_t code = byte(0) | byte(1) << 8 | byte(6) << 16 | byte(7) << 24 | byte(8) << 32;
  EXPECT_EQ(byte(2) | byte(3) << 8, 0x33u);
  EXPECT_EQ(byte(4), 1u);     // the first interrupt stack
  EXPECT_EQ(byte(5), 0x8eu);  // present, 64-bit interrupt gate
  EXPECT_LE(15 * 16 - 1, start.idt_limit);

  const std::string descriptor = wired.Read(start.gdt + ByteCount::Bytes(0x30), 8);
  EXPECT_EQ(descriptor, std::string("\xff\xff\0\0\0\xfb\xaf\0", 8));  // 64-bit code of privilege level 3
  EXPECT_EQ(Rights(wired.Walk(Gva(code))), "rx");
  EXPECT_EQ(wired.Read(Gva(code), 2), std::string("\xe6\xf5"));  // OUT to kFaultPort

  uint64_t stack;
  std::memcpy(&stack, wired.Read(start.tss + ByteCount::Bytes(36), 8).data(), 8);
  EXPECT_EQ(stack % 16, 0u);
  EXPECT_EQ(stack, kFaultFramesAddress.value() + 2 * 64);
  const uint64_t frame[] = {6, 0x400010, 0x33, 0x3202, 0x20001000, 0x2b};  // error code, rip, cs, rflags, rsp, ss
  const std::optional<WalkResult> walk = wired.Walk(Gva(stack - sizeof(frame)));
  ASSERT_TRUE(walk && walk->writable);
  std::memcpy(wired.span().data() + (walk->gpa.value() - wired.layout().gpa.value()), frame, sizeof(frame));

  for (uint64_t rip : {code, code + 2}) {
    const std::optional<GuestFault> fault = wired->FaultAt(Gva(rip), 1);
    ASSERT_TRUE(fault);
    EXPECT_EQ(fault->vector, 14);
    EXPECT_EQ(fault->error_code, 6u);
    EXPECT_EQ(fault->rip, 0x400010u);
    EXPECT_EQ(fault->rflags, 0x3202u);
    EXPECT_EQ(fault->rsp, 0x20001000u);
  }
  EXPECT_EQ(wired->FaultAt(Gva(code), 0)->rip, 0u);
}

// A KVM without hardware help asks the I/O permission map although the I/O privilege level is 3.
TEST(WiredMemory, EveryVcpusTaskStateAllowsEveryPort) {
  Wired wired;
  for (int vcpu = 0; vcpu < wired.layout().vcpus; ++vcpu) {
    const VcpuStart start = wired->StartOf(vcpu);
    uint16_t map;
    std::memcpy(&map, wired.Read(start.tss + ByteCount::Bytes(102), 2).data(), 2);
    ASSERT_EQ(map + 8193u, start.tss_limit + 1u) << "the map ends where the segment does";
    EXPECT_EQ(wired.Read(start.tss + ByteCount::Bytes(map), 8193), std::string(8192, '\0') + '\xff');
  }
}

TEST(WiredMemory, OtherCodeIsNoFaultCode) {
  Wired wired;
  EXPECT_FALSE(wired->FaultAt(Gva(kText), 0));
  EXPECT_FALSE(wired->FaultAt(Gva(kFaultCodeAddress.value() - 1), 0));
  EXPECT_FALSE(wired->FaultAt(kFaultCodeAddress + ByteCount::Bytes(32 * 16), 0));
  EXPECT_EQ(wired->FaultAt(kFaultCodeAddress + ByteCount::Bytes(32 * 16 - 1), 0)->vector, 31);
}

TEST(WiredMemory, TheAdvisedPartIsWhatTheGuestWroteLast) {
  Wired wired;
  EXPECT_EQ(wired->ReadAdvisedPart().size, ByteCount());
  auto* const info = reinterpret_cast<quire_boot_info*>(wired.span().data());
  info->huge_begin = ~uint64_t{0};
  info->huge_bytes = 12345;
  EXPECT_EQ(wired->ReadAdvisedPart().begin, ByteCount::Bytes(~uint64_t{0}));
  EXPECT_EQ(wired->ReadAdvisedPart().size, ByteCount::Bytes(12345));
}

TEST(WiredMemory, AWireRequestIsReadAndAnsweredInBootInfo) {
  Wired wired;
  auto* const info = reinterpret_cast<quire_boot_info*>(wired.span().data());
  info->wire_begin = 4096;
  info->wire_bytes = ~uint64_t{0};
  EXPECT_EQ(wired->ReadPartToWire().begin, ByteCount::Bytes(4096));
  EXPECT_EQ(wired->ReadPartToWire().size, ByteCount::Bytes(~uint64_t{0}));
  wired->AnswerWireRequest(QUIRE_WIRE_REFUSED);
  EXPECT_EQ(info->wire_answer, QUIRE_WIRE_REFUSED);
}

TEST(WiredMemory, StopAndProgressGoThroughBootInfo) {
  Wired wired;
  auto* const info = reinterpret_cast<quire_boot_info*>(wired.span().data());
  info->progress[1] = {1, 2, 3, 4, 5, 6, 7, 2};
  const quire_progress progress = wired->ReadProgress(1);
  EXPECT_EQ(std::memcmp(&progress, &info->progress[1], sizeof(progress)), 0);
  EXPECT_EQ(wired->ReadProgress(0).operations, 0u);
  wired->RequestStop();
  EXPECT_EQ(info->stop, 1u);
}

}  // namespace
}  // namespace quire
