#include "vmm/kvm/elf_loader.h"

#include <elf.h>

#include <string>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "vmm/kvm/test_elf.h"
#include "workloads/guest_abi.h"

namespace quire {
namespace {

using ::testing::HasSubstr;

constexpr uint64_t kText = QUIRE_IMAGE_BEGIN;
constexpr uint64_t kData = QUIRE_IMAGE_BEGIN + 0x10000;
constexpr ByteCount kLimit = ByteCount::MiB(16);

// Code of 64 bytes, entered at its beginning, and data of a page, of which 16 bytes are in the file.
TestElf Program() {
  TestElf elf;
  elf.AddSegment(kText, 64, PF_X, std::string(64, '\x90'));
  elf.AddSegment(kData, kPageSize, PF_W, std::string(16, 'd'));
  elf.header.e_entry = kText;
  return elf;
}

absl::StatusOr<ElfImage> Parse(const std::string& file, ByteCount limit = kLimit) {
  return ParseElf("guest.elf", AsBytes(file), limit);
}

// Expects a refusal with these words, in one sentence that names the file.
void ExpectRefused(const std::string& file, const std::string& words, ByteCount limit = kLimit) {
  const absl::StatusOr<ElfImage> image = Parse(file, limit);
  ASSERT_FALSE(image.ok()) << "expected: " << words;
  EXPECT_EQ(image.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(image.status().message()), HasSubstr(words));
  EXPECT_THAT(std::string(image.status().message()), ::testing::StartsWith("guest.elf: "));
  EXPECT_THAT(std::string(image.status().message()), ::testing::Not(HasSubstr("\n")));
}

TEST(ElfLoader, ReadsSegmentsInAscendingOrder) {
  TestElf elf = Program();
  std::swap(elf.segments[0], elf.segments[1]);
  const std::string file = elf.bytes();
  const absl::StatusOr<ElfImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->entry, Gva(kText));
  ASSERT_EQ(image->segments.size(), 2u);
  const ElfSegment &text = image->segments[0], &data = image->segments[1];
  EXPECT_EQ(text.address, Gva(kText));
  EXPECT_EQ(text.size, ByteCount::Bytes(64));
  EXPECT_TRUE(text.executable);
  EXPECT_FALSE(text.writable);
  EXPECT_EQ(data.address, Gva(kData));
  EXPECT_EQ(data.size, ByteCount::Bytes(kPageSize));
  EXPECT_FALSE(data.executable);
  EXPECT_TRUE(data.writable);
  ASSERT_EQ(data.content.size(), 16u);
  EXPECT_EQ(data.content[15], std::byte{'d'});
  EXPECT_EQ(image->pages(), PageCount(2));
}

TEST(ElfLoader, CountsAPageSharedBySegmentsOnce) {
  TestElf elf;
  elf.AddSegment(kText, 100, PF_X);
  elf.AddSegment(kText + 100, kPageSize, PF_W);
  elf.AddSegment(kText + 2 * kPageSize - 1, 1, PF_W);
  elf.header.e_entry = kText + 99;
  const std::string file = elf.bytes();
  const absl::StatusOr<ElfImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->pages(), PageCount(2));
}

TEST(ElfLoader, IgnoresEmptySegmentsAndNotes) {
  TestElf elf = Program();
  elf.AddSegment(0, 0, PF_W);
  elf.AddSegment(0, 8, PF_W).p_type = PT_NOTE;
  elf.AddSegment(0, 0, PF_W).p_type = PT_GNU_STACK;
  const std::string file = elf.bytes();
  const absl::StatusOr<ElfImage> image = Parse(file);
  ASSERT_TRUE(image.ok()) << image.status();
  EXPECT_EQ(image->segments.size(), 2u);
}

TEST(ElfLoader, AcceptsTheWholeImageRange) {
  TestElf elf = Program();
  elf.segments.resize(elf.header.e_phnum = 1);
  elf.segments[0].p_memsz = QUIRE_IMAGE_END - QUIRE_IMAGE_BEGIN;
  const std::string file = elf.bytes();
  EXPECT_TRUE(Parse(file, ByteCount::MiB(512)).ok());
}

TEST(ElfLoader, RefusesWhatIsNoElfFile) {
  ExpectRefused("", "not an ELF file");
  ExpectRefused("#!/bin/sh\necho hello\n", "not an ELF file");
  ExpectRefused(
      "\x7f"
      "EL",
      "not an ELF file");
}

TEST(ElfLoader, RefusesEveryTruncation) {
  const std::string file = Program().bytes();
  for (size_t size = SELFMAG; size < file.size(); ++size) ExpectRefused(file.substr(0, size), "truncated");
}

TEST(ElfLoader, RefusesOtherClassesOrdersAndVersions) {
  TestElf elf = Program();
  elf.header.e_ident[EI_CLASS] = ELFCLASS32;
  ExpectRefused(elf.bytes(), "32-bit program: compile it with -m64");
  elf.header.e_ident[EI_CLASS] = 9;
  ExpectRefused(elf.bytes(), "ELF class 9");
  elf = Program();
  elf.header.e_ident[EI_DATA] = ELFDATA2MSB;
  ExpectRefused(elf.bytes(), "not little-endian");
  elf = Program();
  elf.header.e_ident[EI_VERSION] = 7;
  ExpectRefused(elf.bytes(), "ELF version 7");
}

TEST(ElfLoader, RefusesOtherMachines) {
  TestElf elf = Program();
  elf.header.e_machine = EM_AARCH64;
  ExpectRefused(elf.bytes(), "built for another machine (ELF machine 183)");
}

TEST(ElfLoader, RefusesWhatIsNoStaticExecutable) {
  TestElf elf = Program();
  elf.header.e_type = ET_DYN;
  ExpectRefused(elf.bytes(), "-static -no-pie");
  elf.header.e_type = ET_REL;
  ExpectRefused(elf.bytes(), "an object file");
  elf.header.e_type = ET_CORE;
  ExpectRefused(elf.bytes(), "not an executable (ELF type 4)");
  elf = Program();
  elf.segments[1].p_type = PT_INTERP;
  ExpectRefused(elf.bytes(), "dynamically linked program");
  elf.segments[1].p_type = PT_DYNAMIC;
  ExpectRefused(elf.bytes(), "dynamically linked program");
  elf.segments[1].p_type = PT_TLS;
  ExpectRefused(elf.bytes(), "thread-local storage");
}

TEST(ElfLoader, RefusesBadProgramHeaderTables) {
  TestElf elf = Program();
  elf.header.e_phnum = 0;
  ExpectRefused(elf.bytes(), "no program headers");
  elf.header.e_phnum = PN_XNUM;
  ExpectRefused(elf.bytes(), "too many program headers");
  elf.header.e_phnum = 60000;
  ExpectRefused(elf.bytes(), "truncated: program headers at offset 64");
  elf = Program();
  elf.header.e_phentsize = 32;
  ExpectRefused(elf.bytes(), "program headers of 32 bytes");
  elf = Program();
  for (uint64_t offset : {uint64_t{1} << 40, ~uint64_t{0}, ~uint64_t{0} - 111}) {
    elf.header.e_phoff = offset;
    ExpectRefused(elf.bytes(), "truncated: program headers at offset");
  }
}

TEST(ElfLoader, RefusesAFileWithNothingToLoad) {
  TestElf elf = Program();
  elf.segments[0].p_type = elf.segments[1].p_type = PT_NOTE;
  ExpectRefused(elf.bytes(), "no segment to load");
}

TEST(ElfLoader, RefusesSegmentsBeyondTheFile) {
  TestElf elf = Program();
  elf.segments[1].p_offset += 1;
  ExpectRefused(elf.bytes(), "truncated: the segment at 0x410000");
  elf.segments[1].p_offset = ~uint64_t{0} - 1000;
  ExpectRefused(elf.bytes(), "truncated: the segment at 0x410000");
  elf = Program();
  elf.segments[1].p_filesz = elf.segments[1].p_memsz = ~uint64_t{0};
  ExpectRefused(elf.bytes(), "truncated: the segment at 0x410000");
  elf = Program();
  elf.segments[1].p_memsz = 15;
  ExpectRefused(elf.bytes(), "has 16 bytes in the file but takes only 15");
}

TEST(ElfLoader, RefusesSegmentsOutsideTheImageRange) {
  const std::string words = "is outside [0x400000, 0x10000000)";
  TestElf elf = Program();
  constexpr uint64_t kAddresses[] = {0,     QUIRE_IMAGE_BEGIN - 1, QUIRE_IMAGE_END, QUIRE_IMAGE_END - kPageSize + 1,
                                     ~0ull, ~0ull - kPageSize + 1};
  for (uint64_t address : kAddresses) {
    elf.segments[1].p_vaddr = address;
    ExpectRefused(elf.bytes(), words);
  }
  elf = Program();
  constexpr uint64_t kSizes[] = {QUIRE_IMAGE_END - kData + 1, ~0ull, ~0ull - kData + 1};
  for (uint64_t size : kSizes) {
    elf.segments[1].p_memsz = size;
    ExpectRefused(elf.bytes(), words);
  }
}

TEST(ElfLoader, RefusesOverlappingSegments) {
  TestElf elf = Program();
  elf.segments[1].p_vaddr = kText + 63;
  ExpectRefused(elf.bytes(), "[0x400000, 0x400040) and [0x40003f, 0x40103f) overlap");
  elf.segments[1].p_vaddr = kText;
  ExpectRefused(elf.bytes(), "overlap");
  elf.segments[1].p_vaddr = kText + 64;
  EXPECT_TRUE(Parse(elf.bytes()).ok());
}

TEST(ElfLoader, RefusesEntryPointsOutsideCode) {
  TestElf elf = Program();
  for (uint64_t entry : {uint64_t{0}, kText - 1, kText + 64, kData + kPageSize, ~uint64_t{0}}) {
    elf.header.e_entry = entry;
    ExpectRefused(elf.bytes(), "is outside every segment");
  }
  elf.header.e_entry = kData;
  ExpectRefused(elf.bytes(), "in a segment without code");
}

TEST(ElfLoader, RefusesAProgramLargerThanTheGuestsMemory) {
  const std::string file = Program().bytes();
  EXPECT_TRUE(Parse(file, PageCount(2).bytes()).ok());
  ExpectRefused(file, "takes 8192 bytes of memory, more than the guest's 4096", kOnePage.bytes());
}

}  // namespace
}  // namespace quire
