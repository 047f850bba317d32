#include "vmm/libvirt/qemu/qemu_domain.h"

#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <pugixml.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace quire {
namespace {

using ::testing::HasSubstr;
using ::testing::MatchesRegex;
using ::testing::Not;

constexpr char kSchema[] = "/usr/share/libvirt/schemas/domain.rng";

QemuDomain Some() {
  return {.name = "quire-1-busy-0",
          .uuid = "7a1e4c9e-6c0e-4f63-9a5b-0f5a6c2f7c11",
          .memory = ByteCount::MiB(256),
          .vcpus = 2,
          .kernel = "/boot/vmlinuz",
          .initrd = "/tmp/initrd",
          .command_line = "console=ttyS0 quire.test=work:64",
          .console = "/tmp/console"};
}

pugi::xml_document Parsed(const QemuDomain& domain) {
  pugi::xml_document document;
  const std::string text = DomainXml(domain);
  EXPECT_TRUE(document.load_string(text.c_str())) << text;
  return document;
}

TEST(DomainXmlTest, HasWhatTheGuestIsToHave) {
  const pugi::xml_document document = Parsed(Some());
  const pugi::xml_node domain = document.child("domain");
  EXPECT_STREQ(domain.attribute("type").value(), "qemu");
  EXPECT_STREQ(domain.child_value("name"), "quire-1-busy-0");
  EXPECT_STREQ(domain.child_value("uuid"), "7a1e4c9e-6c0e-4f63-9a5b-0f5a6c2f7c11");
  EXPECT_STREQ(domain.child_value("memory"), "262144");
  EXPECT_STREQ(domain.child("memory").attribute("unit").value(), "KiB");
  EXPECT_STREQ(domain.child_value("currentMemory"), "262144");
  EXPECT_STREQ(domain.child_value("vcpu"), "2");
  EXPECT_STREQ(domain.child("os").child_value("kernel"), "/boot/vmlinuz");
  EXPECT_STREQ(domain.child("os").child_value("initrd"), "/tmp/initrd");
  EXPECT_STREQ(domain.child("os").child_value("cmdline"), "console=ttyS0 quire.test=work:64");
  const pugi::xml_node devices = domain.child("devices");
  EXPECT_STREQ(devices.child("serial").attribute("type").value(), "file");
  EXPECT_STREQ(devices.child("serial").child("source").attribute("path").value(), "/tmp/console");
  EXPECT_STREQ(devices.child("memballoon").attribute("model").value(), "virtio");
  EXPECT_FALSE(domain.child("cpu"));
}

TEST(DomainXmlTest, KvmIsAskedForWhereItIsToRunTheGuest) {
  QemuDomain domain = Some();
  domain.kvm = true;
  EXPECT_STREQ(Parsed(domain).child("domain").attribute("type").value(), "kvm");
  EXPECT_STREQ(Parsed(domain).child("domain").child("cpu").attribute("mode").value(), "host-passthrough");
}

TEST(DomainXmlTest, MemoryIsOfferedForMergingOrNot) {
  QemuDomain domain = Some();
  EXPECT_TRUE(Parsed(domain).child("domain").child("memoryBacking").child("nosharepages"));
  domain.merge = true;
  EXPECT_THAT(DomainXml(domain), Not(HasSubstr("nosharepages")));
}

TEST(DomainXmlTest, ABalloonTakesItsShareFromTheStart) {
  QemuDomain domain = Some();
  domain.balloon = ByteCount::MiB(64);
  EXPECT_STREQ(Parsed(domain).child("domain").child_value("memory"), "262144");
  EXPECT_STREQ(Parsed(domain).child("domain").child_value("currentMemory"), "196608");
}

TEST(DomainXmlTest, NoTextBecomesMarkup) {
  QemuDomain domain = Some();
  domain.initrd.reset();
  domain.command_line = "a=\"1\" </cmdline><kernel>/etc/passwd</kernel> & \x01\x1b";
  const pugi::xml_document document = Parsed(domain);
  EXPECT_STREQ(document.child("domain").child("os").child_value("cmdline"),
               "a=\"1\" </cmdline><kernel>/etc/passwd</kernel> & ");
  EXPECT_STREQ(document.child("domain").child("os").child_value("kernel"), "/boot/vmlinuz");
  EXPECT_FALSE(document.child("domain").child("os").child("initrd"));
}

TEST(DomainXmlTest, LibvirtsSchemaAllowsIt) {
  if (access(kSchema, R_OK) != 0 || access("/usr/bin/xmllint", X_OK) != 0) {
    GTEST_SKIP() << "LIBVIRT'S SCHEMA IS NOT CHECKED HERE: there is no " << kSchema
                 << " or no xmllint (Debian's libvirt0 and libxml2-utils)";
  }
  for (const bool kvm : {false, true}) {
    for (const bool merge : {false, true}) {
      QemuDomain domain = Some();
      domain.kvm = kvm;
      domain.merge = merge;
      const std::string file = absl::StrCat(testing::TempDir(), "/domain.xml");
      std::ofstream(file) << DomainXml(domain);
      EXPECT_EQ(system(absl::StrCat("xmllint --noout --relaxng ", kSchema, " ", file).c_str()), 0) << DomainXml(domain);
    }
  }
}

TEST(NewUuidTest, IsARandomOne) {
  std::set<std::string> seen;
  for (int i = 0; i < 100; ++i) {
    const std::string uuid = NewUuid();
    EXPECT_THAT(uuid, MatchesRegex("[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}"));
    EXPECT_TRUE(seen.insert(uuid).second);
  }
}

}  // namespace
}  // namespace quire
