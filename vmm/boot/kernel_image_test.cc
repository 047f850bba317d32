#include "vmm/boot/kernel_image.h"

#include <elf.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/boot/test_kernels.h"
#include "vmm/kvm/test_elf.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

constexpr uint64_t kMiB = 1 << 20;

absl::StatusOr<KernelImage> Parse(const std::string& file) { return ParseKernel("a.kernel", AsBytes(file)); }

// Expects a refusal with these words, in one sentence that names the file.
void ExpectRefused(const std::string& file, const std::string& words) {
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_FALSE(image.ok()) << "expected: " << words;
  EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(image.status().message()), HasSubstr(words));
  EXPECT_THAT(std::string(image.status().message()), StartsWith("a.kernel: "));
  EXPECT_THAT(std::string(image.status().message()), Not(HasSubstr("\n")));
}

void ExpectOneSegment(const KernelImage& image, uint64_t address, uint64_t size, uint64_t content) {
  ASSERT_EQ(image.segments.size(), 1u);
  EXPECT_EQ(image.segments[0].address, Gpa(address));
  EXPECT_EQ(image.segments[0].size, ByteCount::Bytes(size));
  EXPECT_EQ(image.segments[0].content.size(), content);
}

TEST(KernelImage, RefusesWhatIsNoKernel) {
  ExpectRefused("", "empty");
  ExpectRefused("#!/bin/sh\n", "not a kernel: a kernel is a bzImage");
  ExpectRefused("\x1f\x8b\x08", "a gzip file: unpack it");
  ExpectRefused("\x28\xb5\x2f\xfd", "a zstd file: unpack it");
  ExpectRefused(
      "\xfd"
      "7zXZ",
      "an xz file: unpack it");
}

TEST(BzImage, IsLoadedWhereItPrefersAndEnteredAt0x200) {
  const std::string file = TestBzImage().bytes();
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->format, KernelFormat::kBzImage);
  ExpectOneSegment(*image, 16 * kMiB, 8 * kMiB, 4096);
  EXPECT_EQ(image->segments[0].content.data(), AsBytes(file).data() + 3 * 512);
  EXPECT_EQ(image->entry, Gpa(16 * kMiB + 0x200));
  EXPECT_EQ(image->initrd_limit, Gpa(0x80000000));
  EXPECT_EQ(image->command_line_limit, ByteCount::Bytes(2047));
  EXPECT_EQ(image->protocol, 0x020f);
  EXPECT_EQ(image->setup_header.size(), sizeof(setup_header));
}

TEST(BzImage, NoSectorsOfSetupMeansFour) {
  TestBzImage kernel;
  kernel.header.setup_sects = 0;
  kernel.kernel.insert(0, 2 * 512, 's');
  const std::string file = kernel.bytes();
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->segments[0].content[0], std::byte{0x90});
}

// What is not rounded to 16 bytes, and signatures.
TEST(BzImage, WhatFollowsTheKernelIsLoadedToo) {
  const absl::StatusOr<KernelImage> image = Parse(TestBzImage().bytes() + "signature");
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->segments[0].content.size(), 4096u + 9);
}

TEST(BzImage, TakesAtLeastWhatItsFileHas) {
  TestBzImage kernel;
  kernel.header.init_size = 16;
  const absl::StatusOr<KernelImage> image = Parse(kernel.bytes());
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->segments[0].size, ByteCount::Bytes(4096));
}

TEST(BzImage, AShorterHeaderOfAnOlderProtocolIsNotReadBeyondItsEnd) {
  TestBzImage kernel;
  kernel.header.version = 0x020c;
  kernel.header_end = 0x268;
  const absl::StatusOr<KernelImage> image = Parse(kernel.bytes());
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->setup_header.size(), 0x268u - 0x1f1u);
}

TEST(BzImage, RefusesKernelsWithoutA64BitEntry) {
  TestBzImage kernel;
  kernel.header.version = 0x020b;
  ExpectRefused(kernel.bytes(), "version 2.11 of the boot protocol");
  kernel = TestBzImage();
  kernel.header.xloadflags = 0;
  ExpectRefused(kernel.bytes(), "a 32-bit kernel");
  kernel = TestBzImage();
  kernel.header.loadflags = 0;
  ExpectRefused(kernel.bytes(), "a zImage");
  kernel = TestBzImage();
  kernel.header_end = 0x250;
  ExpectRefused(kernel.bytes(), "its header ends at 0x250");
  kernel = TestBzImage();
  kernel.header.boot_flag = 0;
  ExpectRefused(kernel.bytes(), "signature at 0x1fe");
}

TEST(BzImage, RefusesEveryTruncation) {
  const std::string file = TestBzImage().bytes();
  for (size_t size = 0x206; size < file.size(); ++size) ExpectRefused(file.substr(0, size), "truncated");
}

TEST(BzImage, RefusesAnEmptyKernel) {
  TestBzImage kernel;
  kernel.header.syssize = 0;
  ExpectRefused(kernel.bytes(), "truncated: a kernel of 0 bytes");
  kernel = TestBzImage();
  kernel.kernel.resize(0x200);
  kernel.header.syssize = 0x20;
  ExpectRefused(kernel.bytes(), "ends before its 64-bit entry point");
}

TEST(BzImage, RefusesAddressesThatAreNoLowMemory) {
  TestBzImage kernel;
  for (const uint64_t address : {~uint64_t{0}, uint64_t{3} << 30, (uint64_t{3} << 30) - kMiB}) {
    kernel.header.pref_address = address;
    ExpectRefused(kernel.bytes(), "does not end below 3 GiB");
  }
  kernel.header.pref_address = 0x10000;
  ExpectRefused(kernel.bytes(), "below 1 MiB");
}

TEST(PvhElf, LiesAtItsPhysicalAddressesAndIsEnteredWhereTheNoteSays) {
  const std::string file = TestPvhElf().bytes();
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->format, KernelFormat::kPvhElf);
  EXPECT_EQ(image->entry, Gpa(16 * kMiB + 16));
  ASSERT_EQ(image->segments.size(), 2u);
  EXPECT_EQ(image->segments[0].address, Gpa(16 * kMiB));
  EXPECT_EQ(image->segments[1].address, Gpa(20 * kMiB));
  EXPECT_EQ(image->segments[1].content.size(), 4u);
  EXPECT_EQ(image->end(), Gpa(21 * kMiB));
}

TEST(PvhElf, ANoteOfFourBytesWillDo) {
  TestElf elf = TestPvhElf();
  elf.segments.pop_back();
  const std::string note = TestNote("Xen", 18, RecordBytes(uint32_t{16 << 20}));
  elf.segments.push_back({.p_type = PT_NOTE,
                          .p_flags = 0,
                          .p_offset = elf.content.size(),
                          .p_vaddr = 0,
                          .p_paddr = 0,
                          .p_filesz = note.size(),
                          .p_memsz = 0,
                          .p_align = 4});
  elf.content += note;
  const std::string file = elf.bytes();
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->entry, Gpa(16 * kMiB));
}

TEST(PvhElf, OtherNotesAreNone) {
  for (const std::string& note : {TestNote("Xen", 17, RecordBytes(uint64_t{16 << 20})), TestNote("GNU", 18, "12345678"),
                                  TestNote("Xenophon", 18, "12345678"), TestNote("Xen", 18, "123")}) {
    TestElf elf = TestPvhElf();
    elf.segments.pop_back();
    --elf.header.e_phnum;
    elf.AddSegment(0, note.size(), 0, note).p_type = PT_NOTE;
    ExpectRefused(elf.bytes(), "without a PVH note");
  }
}

TEST(PvhElf, RefusesBrokenNotes) {
  TestElf elf = TestPvhElf();
  elf.segments[2].p_filesz -= 1;
  ExpectRefused(elf.bytes(), "reaches beyond the notes' end");
  elf = TestPvhElf();
  elf.segments[2].p_filesz = elf.segments[2].p_memsz = 65 << 10;
  elf.content.resize(1 << 20);
  ExpectRefused(elf.bytes(), "of notes, more than");
}

TEST(PvhElf, RefusesAnEntryOutsideItsContent) {
  for (const uint64_t entry : {uint64_t{0}, 16 * kMiB + 64, 20 * kMiB + 4, ~uint64_t{0}}) {
    TestElf elf = TestPvhElf();
    elf.segments.pop_back();
    --elf.header.e_phnum;
    const std::string note = TestPvhNote(entry);
    elf.AddSegment(0, note.size(), 0, note).p_type = PT_NOTE;
    ExpectRefused(elf.bytes(), "lies in no segment");
  }
}

TEST(ElfKernel, RefusesEveryTruncation) {
  const std::string file = TestPvhElf().bytes();
  for (size_t size = SELFMAG; size < file.size(); ++size) ExpectRefused(file.substr(0, size), "truncated");
}

TEST(ElfKernel, RefusesBrokenSegments) {
  TestElf elf = TestPvhElf();
  elf.segments[1].p_memsz = 3;
  ExpectRefused(elf.bytes(), "has 4 bytes in the file but takes only 3");
  elf = TestPvhElf();
  elf.segments[1].p_paddr = elf.segments[0].p_paddr + 63;
  ExpectRefused(elf.bytes(), "overlap");
  elf = TestPvhElf();
  elf.segments[1].p_paddr = kMiB - 1;
  ExpectRefused(elf.bytes(), "below 1 MiB");
  elf = TestPvhElf();
  elf.segments[1].p_memsz = ~uint64_t{0};
  ExpectRefused(elf.bytes(), "does not end below 3 GiB");
  elf = TestPvhElf();
  elf.segments.resize(elf.header.e_phnum = 2);
  elf.segments[0].p_type = elf.segments[1].p_type = PT_NULL;
  ExpectRefused(elf.bytes(), "has nothing to load");
}

TEST(ElfKernel, RefusesOtherFiles) {
  TestElf elf = TestPvhElf();
  elf.header.e_machine = EM_AARCH64;
  ExpectRefused(elf.bytes(), "another machine (ELF machine 183)");
  elf = TestPvhElf();
  elf.header.e_type = ET_REL;
  ExpectRefused(elf.bytes(), "not an executable (ELF type 1)");
  elf = TestPvhElf();
  elf.header.e_ident[EI_CLASS] = 3;
  ExpectRefused(elf.bytes(), "ELF class 3");
  elf = TestPvhElf();
  elf.header.e_ident[EI_DATA] = ELFDATA2MSB;
  ExpectRefused(elf.bytes(), "not little-endian");
  elf = TestPvhElf();
  elf.header.e_phnum = 257;
  ExpectRefused(elf.bytes(), "257 program headers");
  elf = TestPvhElf();
  elf.header.e_phentsize = 32;
  ExpectRefused(elf.bytes(), "program headers of 32 bytes, expected 56");
}

TEST(Multiboot, A32BitElfFileIsLoadedAsItsHeadersSay) {
  const std::string file = TestMultibootElf32();
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->format, KernelFormat::kMultiboot);
  ExpectOneSegment(*image, 4 * kMiB, kMiB, 64);
  EXPECT_EQ(image->entry, Gpa(4 * kMiB + 12));
}

TEST(Multiboot, AVirtualEntryIsMadePhysical) {
  constexpr uint64_t kHigh = 0xffffffff80000000;
  TestElf elf;
  elf.AddSegment(kMiB, 64, PF_X, TestMultibootHeader(0) + std::string(52, '\x90')).p_vaddr = kHigh;
  elf.header.e_entry = kHigh + 20;
  const std::string file = elf.bytes();
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->entry, Gpa(kMiB + 20));
}

TEST(Multiboot, AKernelWithBothIsEnteredAsPvh) {
  TestElf elf = TestPvhElf();
  elf.content += TestMultibootHeader(0);
  const std::string file = elf.bytes();
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->format, KernelFormat::kPvhElf);
}

constexpr uint32_t kHasAddresses = 1 << 16;

// A flat file loaded to 1 MiB from its byte 8 on, with the header 16 bytes after that.
std::string FlatMultiboot(uint32_t load_end, uint32_t bss_end, uint32_t entry) {
  constexpr uint32_t kLoad = 1 << 20;
  return std::string(24, 'x') + TestMultibootHeader(kHasAddresses, {kLoad + 16, kLoad, load_end, bss_end, entry}) +
         std::string(100, '\x90');
}

TEST(Multiboot, AFlatFileIsLoadedAsItsHeaderSays) {
  const std::string file = FlatMultiboot(kMiB + 100, kMiB + 4096, kMiB + 99);
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  ExpectOneSegment(*image, kMiB, 4096, 100);
  EXPECT_EQ(image->segments[0].content.data(), AsBytes(file).data() + 8);
  EXPECT_EQ(image->entry, Gpa(kMiB + 99));
}

TEST(Multiboot, AFlatFileWithoutEndsIsLoadedWhole) {
  const std::string file = FlatMultiboot(0, 0, kMiB);
  const absl::StatusOr<KernelImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  ExpectOneSegment(*image, kMiB, file.size() - 8, file.size() - 8);
}

TEST(Multiboot, RefusesAddressesThatDoNotGoTogether) {
  ExpectRefused(FlatMultiboot(kMiB + 4096, 0, kMiB), "more than there is of the file");
  ExpectRefused(FlatMultiboot(kMiB - 1, 0, kMiB), "more than there is of the file");
  ExpectRefused(FlatMultiboot(kMiB + 100, kMiB + 99, kMiB), "its bss ends before it begins");
  ExpectRefused(FlatMultiboot(kMiB + 100, 0, kMiB + 100), "lies in no segment");
  ExpectRefused(TestMultibootHeader(kHasAddresses, {1 << 20, (1 << 20) + 1, 0, 0, 1 << 20}), "do not go together");
  ExpectRefused(TestMultibootHeader(kHasAddresses, {(1 << 20) + 1, 1 << 20, 0, 0, 1 << 20}), "do not go together");
  ExpectRefused(TestMultibootHeader(kHasAddresses, {1 << 20}), "ends within its Multiboot header");
  ExpectRefused(TestMultibootHeader(0), "is no ELF file");
}

TEST(Multiboot, RefusesWhatItCannotGive) {
  ExpectRefused(TestMultibootElf32(1 << 2), "flags 0x4");
  EXPECT_TRUE(Parse(TestMultibootElf32(1 << 0 | 1 << 1)).ok());
}

TEST(Multiboot, AHeaderBeyondWhereItIsLookedForIsNone) {
  for (const size_t at : {size_t{8192 - 11}, size_t{8192}, size_t{5}}) {
    ExpectRefused(std::string(at, 'x') + TestMultibootHeader(0), "not a kernel");
  }
}

TEST(Multiboot, AHeaderWithAWrongSumIsNone) {
  std::string header = TestMultibootHeader(0);
  header[8] ^= 1;
  ExpectRefused(header, "not a kernel");
}

}  // namespace
}  // namespace quire
