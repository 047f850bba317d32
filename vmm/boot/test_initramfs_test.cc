#include "vmm/boot/test_initramfs.h"

#include <elf.h>
#include <sys/stat.h>

#include <cstdint>
#include <map>
#include <string>

#include "gtest/gtest.h"

namespace quire {
namespace {

struct Entry {
  uint32_t mode = 0, device_major = 0, device_minor = 0;
  std::string content;
};

uint32_t Field(const std::string& archive, size_t at, int index) {
  return std::stoul(archive.substr(at + 6 + 8 * index, 8), nullptr, 16);
}

constexpr size_t Aligned(size_t at) { return (at + 3) / 4 * 4; }

// As a kernel reads it.
std::map<std::string, Entry> Unpack(absl::Span<const std::byte> bytes) {
  const std::string archive(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  std::map<std::string, Entry> entries;
  for (size_t at = 0; at + 110 <= archive.size();) {
    EXPECT_EQ(archive.substr(at, 6), "070701");
    const uint32_t size = Field(archive, at, 6), name_size = Field(archive, at, 11);
    const std::string name = archive.substr(at + 110, name_size - 1);
    const size_t content_at = Aligned(at + 110 + name_size);
    entries[name] = {.mode = Field(archive, at, 1),
                     .device_major = Field(archive, at, 9),
                     .device_minor = Field(archive, at, 10),
                     .content = archive.substr(content_at, size)};
    at = Aligned(content_at + size);
  }
  return entries;
}

TEST(TestInitramfs, HasWhatAKernelNeedsToRunInit) {
  const std::map<std::string, Entry> entries = Unpack(TestInitramfs());
  EXPECT_EQ(entries.count("TRAILER!!!"), 1u);
  ASSERT_EQ(entries.count("init"), 1u);
  EXPECT_EQ(entries.at("init").mode, static_cast<uint32_t>(S_IFREG | 0755));
  ASSERT_EQ(entries.count("dev/console"), 1u);
  const Entry& console = entries.at("dev/console");
  EXPECT_EQ(console.mode, static_cast<uint32_t>(S_IFCHR | 0600));
  EXPECT_EQ(console.device_major, 5u);
  EXPECT_EQ(console.device_minor, 1u);
  for (const char* folder : {"dev", "proc", "sys"}) {
    ASSERT_EQ(entries.count(folder), 1u) << folder;
    EXPECT_TRUE(S_ISDIR(entries.at(folder).mode)) << folder;
  }
}

TEST(TestInitramfs, InitIsAStaticProgram) {
  const std::string init = Unpack(TestInitramfs()).at("init").content;
  ASSERT_GT(init.size(), sizeof(Elf64_Ehdr));
  const auto* header = reinterpret_cast<const Elf64_Ehdr*>(init.data());
  EXPECT_EQ(init.substr(0, SELFMAG), ELFMAG);
  EXPECT_EQ(header->e_type, ET_EXEC);
  EXPECT_EQ(header->e_machine, EM_X86_64);
  const auto* segments = reinterpret_cast<const Elf64_Phdr*>(init.data() + header->e_phoff);
  for (int i = 0; i < header->e_phnum; ++i) EXPECT_NE(segments[i].p_type, static_cast<uint32_t>(PT_INTERP));
}

}  // namespace
}  // namespace quire
