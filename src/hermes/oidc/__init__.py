"""Tokens of people whom somebody else knows: JSON Web Tokens (RFC 7519) of configured issuers, to principals.

Rules, after RFC 8725 (I18):
1. Only what the configuration names counts: issuer, audience, algorithms, and where the issuer's keys are. A token says
   which of them it means, never where or what they are.
2. Everything is read strictly: one spelling, no member twice, nothing that is not understood.
3. Nothing of a token is believed before its signature is proven. That is done once, and remembered until it ends.
4. Keys are fetched apart from requests. Who waits for them is only who brings a key id that is not known.
"""
