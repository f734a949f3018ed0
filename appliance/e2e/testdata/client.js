// The smallest program around the sigstore library: node client.js VERB FILE BUNDLE [IDENTITY]. Services come by environment.
'use strict';
const fs = require('fs');
const path = require('path');
const sigstore = require('sigstore');

const [verb, file, bundleFile, identity] = process.argv.slice(2);
const data = fs.readFileSync(file);
const services = {
  fulcioURL: process.env.FULCIO_URL,
  rekorURL: process.env.REKOR_URL,
  identityToken: process.env.IDENTITY_TOKEN,
  tlogUpload: true,
};
const statement = Buffer.from(JSON.stringify({
  _type: 'https://in-toto.io/Statement/v1',
  subject: [{ name: path.basename(file), digest: { sha256: require('crypto').createHash('sha256').update(data).digest('hex') } }],
  predicateType: 'https://cosign.sigstore.dev/attestation/v1',
  predicate: { tests: 'green' },
}));

const verbs = {
  'sign': () => sigstore.sign(data, services),
  'sign-with-timestamp': () => sigstore.sign(data, { ...services, tsaServerURL: process.env.TSA_URL }),
  'attest': () => sigstore.attest(statement, 'application/vnd.in-toto+json', services),
  'attest-legacy': () => sigstore.attest(statement, 'application/vnd.in-toto+json', { ...services, legacyCompatibility: true }),
  'verify': async () => {
    const bundle = JSON.parse(fs.readFileSync(bundleFile));
    const options = {
      tufMirrorURL: process.env.TUF_URL,
      tufRootPath: process.env.TUF_ROOT,
      tufCachePath: path.join(process.cwd(), 'tuf-cache'),
      certificateIssuer: process.env.ISSUER,
      certificateIdentityEmail: identity,
    };
    await (bundle.dsseEnvelope ? sigstore.verify(bundle, options) : sigstore.verify(bundle, data, options));
  },
};

verbs[verb]().then((bundle) => {
  if (bundle) fs.writeFileSync(bundleFile, JSON.stringify(bundle));
}).catch((error) => {
  for (let e = error; e; e = e.cause) console.error(e.code || '', e.message || e);
  process.exit(1);
});
