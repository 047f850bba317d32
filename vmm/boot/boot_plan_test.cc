#include "vmm/boot/boot_plan.h"

#include <asm/bootparam.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/boot/kernel_image.h"
#include "vmm/boot/pc_layout.h"
#include "vmm/boot/test_kernels.h"
#include "vmm/kvm/test_elf.h"
#include "vmm/kvm/test_page_walk.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kMiB = 1 << 20;

// A kernel's file and what is made of it.
struct Kernel {
  explicit Kernel(std::string file_bytes)
      : file(std::move(file_bytes)), image(ParseKernel("a.kernel", AsBytes(file))) {}

  absl::StatusOr<BootPlan> Plan(ByteCount memory, const std::string& initrd = "", const std::string& command_line = "",
                                int vcpus = 1, int devices = 0) const {
    return PlanBoot({.kernel = *image,
                     .initrd = AsBytes(initrd),
                     .command_line = command_line,
                     .memory = memory,
                     .vcpus = vcpus,
                     .virtio_devices = devices});
  }

  const std::string file;
  const absl::StatusOr<KernelImage> image;
};

// What a plan points to must outlive it.
const std::string kInitrd(5000, 'i');

// Content and the zero that follows it.
bool IsInitrd(const std::string& text) { return text == kInitrd + '\0'; }

Kernel Linux() { return Kernel(TestBzImage().bytes()); }
Kernel Pvh() { return Kernel(TestPvhElf().bytes()); }
Kernel Multiboot() { return Kernel(TestMultibootElf32()); }

// Reads what a plan puts into memory, which is zero where it puts nothing.
class PlannedMemory {
 public:
  explicit PlannedMemory(const BootPlan& plan) : plan_(plan) {}

  std::string Text(uint64_t address, size_t size) const {
    std::string text(size, '\0');
    for (const BootPlan::Piece& piece : plan_.pieces) {
      for (size_t i = 0; i < size; ++i) {
        const uint64_t at = address + i - piece.gpa.value();
        if (at < piece.bytes().size()) text[i] = static_cast<char>(piece.bytes()[at]);
      }
    }
    return text;
  }
  template <class Record>
  Record At(uint64_t address) const {
    Record record;
    std::memcpy(&record, Text(address, sizeof(record)).data(), sizeof(record));
    return record;
  }
  std::string CString(uint64_t address) const { return Text(address, 4096).c_str(); }

 private:
  const BootPlan& plan_;
};

const BootPlan::Piece* PieceAt(const BootPlan& plan, Gpa gpa) {
  for (const BootPlan::Piece& piece : plan.pieces) {
    if (piece.gpa == gpa) return &piece;
  }
  return nullptr;
}

void ExpectRefused(const absl::StatusOr<BootPlan>& plan, const std::string& words) {
  ASSERT_FALSE(plan.ok()) << "expected: " << words;
  EXPECT_EQ(plan.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(plan.status().message()), HasSubstr(words));
}

TEST(BootPlan, PiecesAreInOrderAndLieApartInLowMemory) {
  for (const Kernel& kernel : {Linux(), Pvh(), Multiboot()}) {
    const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::GiB(5), kInitrd, "console=ttyS0", 4, 8);
    ASSERT_TRUE(plan.ok()) << plan.status();
    uint64_t end = 0;
    for (const BootPlan::Piece& piece : plan->pieces) {
      EXPECT_GE(piece.gpa.value(), end);
      EXPECT_FALSE(piece.bytes().empty());
      end = piece.gpa.value() + piece.bytes().size();
    }
    EXPECT_LE(end, kLowMemoryLimit.value());
  }
}

TEST(BootPlan, ACopyReadsTheSame) {
  const Kernel kernel = Linux();
  absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::MiB(64), kInitrd, "a b");
  ASSERT_TRUE(plan.ok()) << plan.status();
  const BootPlan copy = *plan;
  plan->pieces.clear();
  EXPECT_EQ(PlannedMemory(copy).CString(kBootCommandLine.value()), "a b");
}

TEST(BootPlan, LinuxStartsIn64BitModeOnIdentityTables) {
  const Kernel kernel = Linux();
  const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::MiB(64));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->mode, BootPlan::Mode::kLong);
  EXPECT_EQ(plan->entry, 16 * kMiB + 0x200);
  EXPECT_EQ(plan->rsi, kBootInfo.value());
  EXPECT_EQ(plan->stack, kBootStack);
  const BootPlan::Piece* const tables = PieceAt(*plan, plan->page_tables);
  ASSERT_NE(tables, nullptr);
  for (const uint64_t address : {uint64_t{0}, 16 * kMiB + 0x200, uint64_t{0xfee00000}, (uint64_t{4} << 30) - 1}) {
    const auto walk = WalkPageTables(tables->bytes(), plan->page_tables, Gva(address));
    ASSERT_TRUE(walk.has_value()) << address;
    EXPECT_EQ(walk->gpa, Gpa(address));
    EXPECT_TRUE(walk->large && walk->writable && walk->executable && !walk->user);
  }
  EXPECT_FALSE(WalkPageTables(tables->bytes(), plan->page_tables, Gva(uint64_t{4} << 30)).has_value());
}

// Base, limit and kind of a descriptor, drawn in Intel's manual, volume 3, 3.4.5.
void ExpectFlat(uint64_t descriptor) {
  EXPECT_EQ(descriptor & 0xffff, 0xffffu) << "limit";
  EXPECT_EQ(descriptor >> 48 & 0xf, 0xfu) << "limit";
  EXPECT_EQ(descriptor >> 55 & 1, 1u) << "in pages";
  EXPECT_EQ(descriptor >> 16 & 0xffffff, 0u) << "base";
  EXPECT_EQ(descriptor >> 56, 0u) << "base";
  EXPECT_EQ(descriptor >> 45 & 7, 4u) << "present, level 0";
}

TEST(BootPlan, SegmentsAreFlatAndOfTheModesKind) {
  for (const Kernel& kernel : {Linux(), Pvh(), Multiboot()}) {
    const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::MiB(64));
    ASSERT_TRUE(plan.ok()) << plan.status();
    const PlannedMemory memory(*plan);
    const uint64_t gdt = plan->gdt.value();
    const bool is_long = plan->mode == BootPlan::Mode::kLong;
    const uint64_t code = memory.At<uint64_t>(gdt + kBootCodeSelector);
    const uint64_t data = memory.At<uint64_t>(gdt + kBootDataSelector);
    ExpectFlat(code);
    ExpectFlat(data);
    EXPECT_EQ(code >> 40 & 0x1f, 0x1bu) << "code that can be read";
    EXPECT_EQ(data >> 40 & 0x1f, 0x13u) << "data that can be written";
    EXPECT_EQ(code >> 53 & 3, is_long ? 1u : 2u) << "64 or 32 bits";
    EXPECT_EQ(memory.At<uint64_t>(gdt + kBootTaskSelector) >> 40 & 0xff, 0x8bu) << "busy task";
    EXPECT_GE(plan->gdt_limit, kBootTaskSelector + 16 - 1);
  }
}

TEST(BootPlan, LinuxIsToldOfItsMemoryCommandLineInitrdAndTables) {
  const Kernel kernel = Linux();
  const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::MiB(64), kInitrd, "console=ttyS0 quiet");
  ASSERT_TRUE(plan.ok()) << plan.status();
  const PlannedMemory memory(*plan);
  const auto params = memory.At<boot_params>(plan->rsi);
  EXPECT_EQ(memory.CString(params.hdr.cmd_line_ptr), "console=ttyS0 quiet");
  EXPECT_EQ(params.hdr.type_of_loader, 0xff);
  EXPECT_EQ(params.hdr.ramdisk_size, 5000u);
  EXPECT_EQ(params.hdr.ramdisk_image, 64 * kMiB - 8192) << "as high as whole pages go";
  EXPECT_TRUE(IsInitrd(memory.Text(params.hdr.ramdisk_image, 5001)));
  EXPECT_EQ(memory.Text(params.acpi_rsdp_addr, 8), "RSD PTR ");
  EXPECT_EQ(params.hdr.init_size, 8u << 20) << "the header is the kernel's own";
  EXPECT_EQ(params.sentinel, 0);
  ASSERT_EQ(params.e820_entries, 4);
  const boot_e820_entry last = params.e820_table[3];
  EXPECT_EQ(last.addr, kMiB);
  EXPECT_EQ(last.size, 63 * kMiB);
  EXPECT_EQ(last.type, 1u);
}

TEST(BootPlan, NoInitrdIsNone) {
  const Kernel kernel = Linux();
  const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::MiB(64));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const auto params = PlannedMemory(*plan).At<boot_params>(plan->rsi);
  EXPECT_EQ(params.hdr.ramdisk_image, 0u);
  EXPECT_EQ(params.hdr.ramdisk_size, 0u);
}

TEST(BootPlan, AnOldProtocolIsNotToldOfTheTables) {
  TestBzImage old;
  old.header.version = 0x020d;
  const Kernel kernel(old.bytes());
  const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::MiB(64));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(PlannedMemory(*plan).At<boot_params>(plan->rsi).acpi_rsdp_addr, 0u);
}

TEST(BootPlan, TheInitrdStaysBelowWhereTheKernelWantsIt) {
  const Kernel kernel = Linux();
  const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::GiB(8), kInitrd);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(PlannedMemory(*plan).At<boot_params>(plan->rsi).hdr.ramdisk_image, 0x80000000u - 8192);
}

TEST(BootPlan, APvhKernelFindsItsStartInfo) {
  const Kernel kernel = Pvh();
  const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::GiB(4), kInitrd, "quiet");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->mode, BootPlan::Mode::kProtected);
  EXPECT_EQ(plan->entry, 16 * kMiB + 16);
  const PlannedMemory memory(*plan);
  const uint64_t info = plan->rbx;
  EXPECT_EQ(memory.At<uint32_t>(info), 0x336ec578u);
  EXPECT_EQ(memory.At<uint32_t>(info + 4), 1u);
  ASSERT_EQ(memory.At<uint32_t>(info + 12), 1u) << "modules";
  const auto module = memory.At<uint64_t>(info + 16);
  EXPECT_TRUE(IsInitrd(memory.Text(memory.At<uint64_t>(module), 5001)));
  EXPECT_EQ(memory.At<uint64_t>(module + 8), 5000u);
  EXPECT_EQ(memory.CString(memory.At<uint64_t>(info + 24)), "quiet");
  EXPECT_EQ(memory.Text(memory.At<uint64_t>(info + 32), 8), "RSD PTR ");
  const auto map = memory.At<uint64_t>(info + 40);
  ASSERT_EQ(memory.At<uint32_t>(info + 48), 5u) << "entries of the memory map";
  EXPECT_EQ(memory.At<uint64_t>(map + 4 * 24), kHighMemoryBegin.value());
  EXPECT_EQ(memory.At<uint64_t>(map + 4 * 24 + 8), uint64_t{1} << 30);
  EXPECT_EQ(memory.At<uint32_t>(map + 4 * 24 + 16), 1u);
}

TEST(BootPlan, SegmentsOfAPvhKernelAreWhereTheyBelong) {
  const Kernel kernel = Pvh();
  const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::MiB(64));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(PlannedMemory(*plan).Text(20 * kMiB, 5), std::string("data\0", 5));
}

TEST(BootPlan, AMultibootKernelFindsItsInformation) {
  const Kernel kernel = Multiboot();
  const absl::StatusOr<BootPlan> plan = kernel.Plan(ByteCount::MiB(64), kInitrd, "smp 2");
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->mode, BootPlan::Mode::kProtected);
  EXPECT_EQ(plan->rax, 0x2badb002u);
  const PlannedMemory memory(*plan);
  const uint64_t info = plan->rbx;
  const auto field = [&](uint64_t offset) { return memory.At<uint32_t>(info + offset); };
  EXPECT_EQ(field(0), 1u << 0 | 1u << 2 | 1u << 3 | 1u << 6 | 1u << 9);
  EXPECT_EQ(field(4), 0x9fc00u / 1024) << "KiB of low memory";
  EXPECT_EQ(field(8), 63u * 1024) << "KiB from 1 MiB on";
  EXPECT_EQ(memory.CString(field(16)), "kernel smp 2");
  ASSERT_EQ(field(20), 1u) << "modules";
  const auto begin = memory.At<uint32_t>(field(24)), end = memory.At<uint32_t>(field(24) + 4);
  EXPECT_EQ(end - begin, kInitrd.size());
  EXPECT_TRUE(IsInitrd(memory.Text(begin, 5001)));
  EXPECT_EQ(memory.CString(memory.At<uint32_t>(field(24) + 8)), "");
  EXPECT_EQ(field(44), 4u * 24) << "size of the memory map";
  EXPECT_EQ(memory.At<uint32_t>(field(48)), 20u) << "size of an entry, without that of the size";
  EXPECT_EQ(memory.At<uint64_t>(field(48) + 3 * 24 + 4), kMiB);
  EXPECT_EQ(memory.CString(field(64)), "Quire");
}

TEST(BootPlan, RefusesMachinesThatCannotBe) {
  const Kernel kernel = Linux();
  ExpectRefused(kernel.Plan(ByteCount::MiB(1)), "takes 2 MiB to 64 TiB of memory, not 1 MiB");
  ExpectRefused(kernel.Plan(ByteCount::Bytes(~uint64_t{0})), "of memory, not");
  ExpectRefused(kernel.Plan(ByteCount::MiB(64), "", "", 0), "1 to 254 vCPUs, not 0");
  ExpectRefused(kernel.Plan(ByteCount::MiB(64), "", "", 255), "1 to 254 vCPUs, not 255");
  ExpectRefused(kernel.Plan(ByteCount::MiB(64), "", "", 1, 9), "at most 8 virtio devices, not 9");
  ExpectRefused(kernel.Plan(ByteCount::MiB(64), "", "", 1, -1), "at most 8 virtio devices, not -1");
}

TEST(BootPlan, RefusesMemoryThatIsTooSmallForTheKernel) {
  const Kernel kernel = Linux();
  ExpectRefused(kernel.Plan(ByteCount::MiB(20)),
                "a.kernel: the kernel takes memory up to 24 MiB, and the guest has 20 MiB: give the guest more with "
                "--memory");
  EXPECT_TRUE(kernel.Plan(ByteCount::MiB(24)).ok());
}

TEST(BootPlan, RefusesAnInitrdThatDoesNotFit) {
  const Kernel kernel = Linux();
  ExpectRefused(
      kernel.Plan(ByteCount::MiB(64), std::string(80 << 20, 'i')),
      "the initrd of 80 MiB does not fit into 64 MiB of memory beside the kernel, which takes the first 24 MiB: "
      "give the guest more with --memory");
  const std::string fitting(1 << 20, 'i');
  EXPECT_TRUE(kernel.Plan(ByteCount::MiB(25), fitting).ok());
  ExpectRefused(kernel.Plan(ByteCount::MiB(25), fitting + "i"), "does not fit into 25 MiB");
}

// Whole pages for the initrd may be more than there is room for, though its bytes fit.
TEST(BootPlan, RefusesAnInitrdWhosePagesReachIntoTheKernel) {
  TestBzImage odd;
  odd.header.init_size = (8 << 20) + 100;
  const Kernel kernel(odd.bytes());
  ExpectRefused(kernel.Plan(ByteCount::MiB(25), std::string((1 << 20) - 100, 'i')), "does not fit");
}

TEST(BootPlan, RefusesAnInitrdBeyondTheKernelsReach) {
  TestBzImage narrow;
  narrow.header.initrd_addr_max = (26 << 20) - 1;
  const Kernel kernel(narrow.bytes());
  ExpectRefused(kernel.Plan(ByteCount::GiB(1), std::string(3 << 20, 'i')),
                "the initrd of 3 MiB does not fit into the memory below 26 MiB, where it has to be, beside the kernel, "
                "which takes the first 24 MiB: make it smaller");
}

TEST(BootPlan, RefusesCommandLinesThatWouldBeCutOff) {
  const Kernel kernel = Linux();
  EXPECT_TRUE(kernel.Plan(ByteCount::MiB(64), "", std::string(2047, 'a')).ok());
  ExpectRefused(kernel.Plan(ByteCount::MiB(64), "", std::string(2048, 'a')),
                "has 2048 characters, and a.kernel takes at most 2047");
  const Kernel multiboot = Multiboot();
  EXPECT_TRUE(multiboot.Plan(ByteCount::MiB(64), "", std::string(60000, 'a')).ok());
  ExpectRefused(multiboot.Plan(ByteCount::MiB(64), "", std::string(65536, 'a')), "takes at most 65535");
  ExpectRefused(kernel.Plan(ByteCount::MiB(64), "", std::string("a\0b", 3)), "has a zero byte");
}

}  // namespace
}  // namespace quire
